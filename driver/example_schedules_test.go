package driver_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/awa-pg/awa/driver"
)

// Report is the job of a schedule.
type Report struct {
	Format string `json:"format"`
}

func (Report) Kind() string { return "report" }

// A program declares its schedules beside its handlers. Its worker synchronises them when it starts, and fires them.
func ExampleHandlers_Schedule() {
	ctx, stop := context.WithCancel(context.Background())
	pool, drop := examplePool(ctx)
	defer drop()

	handlers := driver.NewHandlers()
	handlers.Schedule(
		driver.Schedule{Name: "weekly report", Cron: "30 9 * * MON", Timezone: "Europe/Berlin", Args: Report{"pdf"}},
		driver.Schedule{Name: "figures", Every: time.Second, Overlap: "skip", Args: Report{"csv"}},
	)
	driver.Handle(handlers, func(ctx context.Context, job *driver.Job[Report]) error {
		name, at, _ := job.Schedule() // the nominal time, however late the job runs
		fmt.Printf("%s as %s, on time: %t\n", name, job.Args.Format, time.Since(at) < time.Hour)
		stop()
		return nil
	})
	worker, err := driver.NewWorker(pool, handlers, driver.WorkerConfig{
		ScheduleSource:   "reporting", // this program
		ScheduleRevision: 42,          // such as the number of the build
		Slots:            1,
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: figures as csv, on time: true
}

// What to look at before an expression is trusted.
func ExampleClient_NextFires() {
	ctx := context.Background()
	pool, drop := examplePool(ctx)
	defer drop()

	client := driver.NewClient(pool)
	says, err := client.DescribeCron(ctx, "30 2 * * SUN")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(says)
	after := time.Date(2026, time.March, 20, 0, 0, 0, 0, time.UTC)
	times, err := client.NextFires(ctx, "30 2 * * SUN", "Europe/Berlin", after, 2)
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range times {
		fmt.Println(t.UTC().Format(time.RFC3339))
	}
	// Output:
	// at 02:30, on Sunday
	// 2026-03-22T01:30:00Z
	// 2026-03-29T01:00:00Z
}
