package driver_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/testdb"
)

// Each SQLSTATE of the reference has an error of its own, each cause where several share one, and the text has all that
// the server says.
func TestErrorsBySQLSTATE(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	job := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	for name, test := range map[string]struct {
		statement string
		want      error
		texts     []string
	}{
		"JQ001": {"select awa.complete(1, 4096)", driver.ErrStaleReceipt,
			[]string{"SQLSTATE JQ001", "; detail: ", "; hint: "}},
		"JQ002": {"select awa.resume_queue('unknown')", driver.ErrNoSuchQueue,
			[]string{"detail: Got unknown.", "; hint: "}},
		"JQ003": {"select awa.cancel(0)", driver.ErrNoSuchJob, []string{"detail: Got 0.", "; hint: "}},
		"JQ004": {"set transaction isolation level repeatable read; select awa.cancel(0)", driver.ErrIsolation,
			[]string{"REPEATABLE READ", "; hint: "}},
		"JQ005": {"select awa.drop_queue('default')", driver.ErrWrongState,
			[]string{"detail: 1 of them.", "; hint: "}},
		"JQ006": {`select awa.configure_queue('default', '{"max_depth": 1}'); select awa.enqueue('default', 'k'); ` +
			`select awa.enqueue('default', 'k')`, driver.ErrQueueFull,
			[]string{"detail: Queue default has 2 jobs ready or more, and its max_depth is 1.", "; hint: "}},
		"JQ007": {"select awa.pause_schedule('unknown')", driver.ErrNoSuchSchedule,
			[]string{"detail: Got unknown.", "; hint: "}},
		"JQ008": {"select awa.stop_change(0)", driver.ErrNoSuchChange, []string{"detail: Got 0.", "; hint: "}},
		"22023": {"select awa.enqueue('', 'k')", driver.ErrInvalidArgument,
			[]string{"queue must be", "detail: Got an empty text.", "; hint: "}},
		"22P05": {`do $$ begin raise exception using errcode = '22P05'; end $$`, driver.ErrUntranslatable,
			[]string{"SQLSTATE 22P05"}},
		"23505": {`do $$ begin perform awa._refuse_key(1, ''); end $$`, driver.ErrUniqueKeyHeld,
			[]string{"; hint: "}},
		"40P01": {`do $$ begin raise exception using errcode = '40P01'; end $$`, driver.ErrDeadlock,
			[]string{"SQLSTATE 40P01"}},
		"40001, by Awa": {`do $$ begin perform awa._moved_on(1); end $$`, driver.ErrMovedOn,
			[]string{"detail: Another session was changing job 1.", "hint: Try again"}},
		"40001, else": {`do $$ begin raise exception using errcode = '40001', message = 'could not serialize access'; ` +
			`end $$`, driver.ErrSerialization, []string{"could not serialize"}},
		"40001, by Awa about a queue": {`do $$ begin raise exception using errcode = '40001', message = 'the queue was ` +
			`dropped since the snapshot'; end $$`, driver.ErrSerialization, []string{"was dropped"}},
		"55P03": {`do $$ begin raise exception using errcode = '55P03', message = 'canceling statement due to ` +
			`lock timeout'; end $$`, driver.ErrLocked, []string{"hint: Another session changes it"}},
		"55000, restore": {"insert into awa.origin select * from awa.origin; select awa.enqueue('q', 'k')",
			driver.ErrRestored, []string{"; detail: ", "hint: Call awa.rebase_after_restore() once."}},
		"55000, row": {"set local session_replication_role = replica; delete from awa.ring; select awa.enqueue('q', 'k')",
			driver.ErrRowMissing, []string{"awa.ring has lost its row", "hint: Run: insert into"}},
		"55000, shards": {`select awa.enqueue('grouped', 'k', group_key => 'g'); ` +
			`select awa.configure_queue('grouped', '{"shards": 2}')`,
			driver.ErrShardsInUse, []string{"detail: The queue has 1", "; hint: "}},
		"55000, else": {`do $$ begin raise exception using errcode = '55000', message = 'of the caller''s own'; end $$`,
			nil, []string{"SQLSTATE 55000"}},
		"XX001": {`do $$ declare v record; begin select * into v from awa.claim('default', 1); set local ` +
			`session_replication_role = replica; delete from awa.ready_entries; perform awa.fail(v.job_id, v.receipt, 'e'); ` +
			`end $$`, driver.ErrJobMissing, []string{"; detail: ", "; hint: "}},
		"XX001, else": {`do $$ begin raise exception using errcode = 'XX001', message = 'invalid page'; end $$`,
			nil, []string{"SQLSTATE XX001"}},
		"42501": {"create role stranger_of_errors; set local role stranger_of_errors; select awa.enqueue('q', 'k')",
			driver.ErrNotPermitted, []string{"; hint: Grant the role what it needs: awa_producer"}},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), test.statement, pgx.QueryExecModeSimpleProtocol)
			err = driver.MapError(err)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
			}
			for _, other := range []error{
				driver.ErrStaleReceipt, driver.ErrNoSuchQueue, driver.ErrNoSuchJob, driver.ErrIsolation, driver.ErrWrongState,
				driver.ErrQueueFull, driver.ErrNoSuchSchedule, driver.ErrNoSuchChange, driver.ErrInvalidArgument,
				driver.ErrUntranslatable, driver.ErrJobMissing,
				driver.ErrUniqueKeyHeld, driver.ErrDeadlock, driver.ErrMovedOn, driver.ErrSerialization, driver.ErrLocked,
				driver.ErrRestored, driver.ErrRowMissing, driver.ErrShardsInUse, driver.ErrNotPermitted,
			} {
				assert.Equal(t, errors.Is(test.want, other), errors.Is(err, other), other)
			}
			for _, text := range test.texts {
				assert.ErrorContains(t, err, text)
			}
			var pg *pgconn.PgError
			require.ErrorAs(t, err, &pg)
			assert.Equal(t, name[:5], pg.Code)
			assert.Same(t, err, driver.MapError(err))
		})
	}
	assert.NoError(t, driver.MapError(nil))
	other := errors.New("other")
	assert.Same(t, other, driver.MapError(other))
	waitForState(t, pool, job, "available")
	_, err := client.Enqueue(t.Context(), note{}, driver.EnqueueOptions{Priority: 9})
	assert.ErrorIs(t, err, driver.ErrInvalidArgument)
	for statement, migrate := range map[string]bool{
		"select awa.none()": true, "create table awb.t ()": false, "select public.none()": false, "select none()": false,
	} {
		_, err := pool.Exec(t.Context(), statement)
		require.Error(t, err)
		assert.Equal(t, migrate, strings.Contains(driver.MapError(err).Error(), "Run awa migrate"), statement)
	}
	_, err = pool.Exec(t.Context(), `do $$ begin raise exception using errcode = '23505',
		message = 'duplicate key value violates unique constraint "orders_pkey"'; end $$`)
	assert.NotErrorIs(t, driver.MapError(err), driver.ErrUniqueKeyHeld, "the caller's own table")
	_, err = pool.Exec(t.Context(), "do $$ begin raise exception using errcode = '42501'; end $$")
	assert.ErrorContains(t, driver.MapError(err), "Where Awa was installed with another prefix than awa_")
	assert.ErrorIs(t, driver.MapError(err), driver.ErrNotPermitted)
}

// A session that answers for a job in a transaction that lasts keeps others from changing it.
func TestErrLocked(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	execute(t, pool, "update awa.settings set claim_wait = '1 millisecond'")
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	attempt := claim(t, pool, 1)[0]
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	require.NoError(t, client.CompleteTx(t.Context(), tx, id, attempt.Receipt, nil))
	_, err = client.Cancel(t.Context(), id, "")
	assert.ErrorIs(t, err, driver.ErrLocked)
	assert.ErrorContains(t, err, "hint: A session changes it, or answers for it")
}

// What is decided at commit comes from the caller's own commit.
func TestMapErrorOfACommit(t *testing.T) {
	pool := testdb.New(t)
	client := driver.NewClient(pool)
	id := enqueue(t, pool, note{}, driver.EnqueueOptions{})
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = client.SetPriorityTx(t.Context(), tx, id, 1)
	require.NoError(t, err)
	claim(t, pool, 1)
	err = tx.Commit(t.Context())
	require.Error(t, err)
	assert.NotErrorIs(t, err, driver.ErrMovedOn)
	assert.ErrorIs(t, driver.MapError(err), driver.ErrMovedOn)
	assert.ErrorContains(t, driver.MapError(err), "hint: Try again")
}
