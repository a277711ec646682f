package awatest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/driver/awatest"
)

// The program under test: who signs up is welcomed at once, and asked a day later how it goes.

type welcome struct {
	Name string `json:"name"`
}

func (welcome) Kind() string { return "welcome" }

type askHowItGoes struct {
	Name string `json:"name"`
}

func (askHowItGoes) Kind() string { return "ask_how_it_goes" }

func signUp(ctx context.Context, db driver.DBTX, client *driver.Client, name string) error {
	if _, err := client.EnqueueTx(ctx, db, welcome{name}, driver.EnqueueOptions{Queue: "mail"}); err != nil {
		return err
	}
	_, err := client.EnqueueTx(ctx, db, askHowItGoes{name},
		driver.EnqueueOptions{Queue: "mail", RunAt: time.Now().Add(24 * time.Hour)})
	return err
}

func mailHandlers(send func(to, text string) error) *driver.Handlers {
	handlers := driver.NewHandlers()
	driver.Handle(handlers, func(_ context.Context, job *driver.Job[welcome]) error {
		return send(job.Args.Name, "Welcome!")
	})
	driver.Handle(handlers, func(_ context.Context, job *driver.Job[askHowItGoes]) error {
		return send(job.Args.Name, "How does it go?")
	})
	return handlers
}

// Its tests.

func TestSignUp(t *testing.T) {
	pool := awatest.New(t)
	client := driver.NewClient(pool)
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return signUp(t.Context(), tx, client, "ada")
	}))
	assert.Equal(t, welcome{"ada"}, awatest.RequireEnqueued[welcome](t, pool).Args)
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), awatest.RequireEnqueued[askHowItGoes](t, pool).RunAt,
		time.Minute)
}

func TestMails(t *testing.T) {
	pool := awatest.New(t)
	require.NoError(t, signUp(t.Context(), pool, driver.NewClient(pool), "ada"))
	var sent []string
	handlers := mailHandlers(func(to, text string) error {
		sent = append(sent, fmt.Sprintf("%s: %s", to, text))
		return nil
	})
	work := func(pool *pgxpool.Pool) awatest.Worked {
		return awatest.Work(t, pool, handlers, driver.WorkerConfig{Queues: []driver.QueueConfig{{Name: "mail"}}})
	}

	assert.Equal(t, "completed", work(pool).Job.State)
	assert.Equal(t, []string{"ada: Welcome!"}, sent)
	awatest.Travel(t, pool, 24*time.Hour)
	assert.Equal(t, "completed", work(pool).Job.State)
	assert.Equal(t, []string{"ada: Welcome!", "ada: How does it go?"}, sent)
	awatest.RequireNotEnqueued[askHowItGoes](t, pool)
}
