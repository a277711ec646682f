package browsertest

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFigures measures the pages of a database with a million jobs in 200 queues, for docs/performance.md. It takes
// minutes, and runs with AWA_FIGURES=1 alone.
func TestFigures(t *testing.T) {
	if os.Getenv("AWA_FIGURES") == "" {
		t.Skip("AWA_FIGURES is not set")
	}
	s := newSite(t, "awa_reader")
	s.fillMuch()
	pages := slices.DeleteFunc(s.pages(), func(p page) bool { return p.status != 0 })
	for n := range pages {
		pages[n].path = strings.ReplaceAll(pages[n].path, "webhooks", "queue-7")
	}
	pages = append(pages, page{name: "jobs of a state", path: "/jobs?state=available"},
		page{name: "jobs of a queue", path: "/jobs?queue=queue-7"},
		page{name: "queues, second page", path: "/queues?after=queue-150"})

	t.Run("pages", func(t *testing.T) { s.measurePages(pages) })
	t.Run("watchers", func(t *testing.T) { s.measureWatchers(pages) })
	t.Run("browser", func(t *testing.T) { s.measureBrowser(newBrowser(t).newTab(t, s.address), pages) })
}

// measurePages reads each page some times.
func (s *site) measurePages(pages []page) {
	fmt.Println("| page | p50, ms | p95, ms | processor, command, ms | processor, database, ms | KiB |")
	for _, p := range pages {
		s.get(p.path)
		const times = 10
		var took []time.Duration
		command, database := s.processor()
		size, failed := 0, 0
		for range times {
			began := time.Now()
			body := s.get(p.path)
			took = append(took, time.Since(began))
			size = len(body)
			failed += strings.Count(body, `class="failed"`)
		}
		command2, database2 := s.processor()
		slices.Sort(took)
		fmt.Printf("| %s | %.0f | %.0f | %.1f | %.1f | %d |\n", p.name, ms(took[times/2]), ms(took[times*95/100]),
			ms(command2-command)/times, ms(database2-database)/times, size>>10)
		if failed > 0 {
			fmt.Println("panels that were not read in time:", failed)
		}
	}
	fmt.Println("memory of the command:", s.memory())
}

// measureBrowser opens each page in a browser.
func (s *site) measureBrowser(x *tab, pages []page) {
	fmt.Println("| page in the browser | until loaded, ms |")
	for _, p := range pages {
		x.open(p.path)
		loaded := eval[float64](x, `performance.getEntriesByType("navigation")[0].duration`)
		fmt.Printf("| %s | %.0f |\n", p.name, loaded)
	}
}

// measureWatchers has ten watch one page, and then ten.
func (s *site) measureWatchers(pages []page) {
	var watched []string
	for _, p := range pages {
		if p.isLive {
			watched = append(watched, strings.TrimSuffix("/live"+p.path, "/"))
		}
	}
	for _, same := range []bool{true, false} {
		done := make(chan struct{})
		for n := range 10 {
			path := watched[0]
			if !same {
				path = watched[n]
			}
			go s.watch(path, done)
		}
		time.Sleep(5 * time.Second) // until all are connected
		command, database := s.processor()
		const during = 40 * time.Second
		time.Sleep(during)
		command2, database2 := s.processor()
		close(done)
		share := func(spent time.Duration) float64 { return 100 * spent.Seconds() / during.Seconds() }
		fmt.Printf("ten watchers, same page %v: %.2f %% of a core, command; %.2f %%, database; memory %s\n", same,
			share(command2-command), share(database2-database), s.memory())
	}
	for range 300 {
		s.get("/queues")
	}
	fmt.Println("memory after 300 more:", s.memory())
}

// fillMuch makes a million jobs in 200 queues, most of them completed, and the statistics of an hour.
func (s *site) fillMuch() {
	s.t.Helper()
	for n := range 200 {
		queue := fmt.Sprintf("queue-%d", n)
		for range 10 {
			s.value(`select count(*)::text from awa.enqueue_many($1, 'kind', array(
				select jsonb_build_object('customer', i, 'text', repeat('x', 100)) from generate_series(1, 500) i),
				tags => array['a', 'b'])`, queue)
		}
		for range 9 {
			s.value(`with c as materialized (select job_id, receipt from awa.claim($1, 500))
				select count(*)::text from (select awa.complete_many(array_agg(job_id), array_agg(receipt)) from c) x`, queue)
		}
		s.statistics(n%5, queue, "kind"+strconv.Itoa(n%40), 30, 100)
	}
	s.execute(`select awa.heartbeat(worker_id) from awa.list_workers()`, `call awa.run_maintenance()`)
	for s.value(`select coalesce(bool_or(more), false)::text from awa.fold()`) == "true" {
	}
	s.execute(`analyze`)
}

// get reads a page.
func (s *site) get(path string) string {
	s.t.Helper()
	response, err := http.Get(s.address + path)
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, response.StatusCode, path)
	return string(body)
}

// watch reads a stream until that is enough.
func (s *site) watch(path string, done chan struct{}) {
	response, err := http.Get(s.address + path)
	if err != nil || response.StatusCode != http.StatusOK {
		fmt.Println("no stream:", path)
		return
	}
	go func() {
		<-done
		response.Body.Close()
	}()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
	}
}

// processor returns the time of the processor that the command, and its sessions of the database, have had.
func (s *site) processor() (command, database time.Duration) {
	s.t.Helper()
	rows, err := s.owner.Query(s.t.Context(), `select pid from pg_stat_activity
		where application_name = 'awa ui' and datname = current_database()`)
	require.NoError(s.t, err)
	defer rows.Close()
	for rows.Next() {
		var pid int
		require.NoError(s.t, rows.Scan(&pid))
		database += spent(pid)
	}
	return spent(s.process.Pid), database
}

// spent is what the threads of a process have had.
func spent(pid int) (total time.Duration) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			var ns int64
			fmt.Sscan(string(text), &ns)
			total += time.Duration(ns)
		}
	}
	return total
}

// memory is what the command holds now, and held at most.
func (s *site) memory() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Pid))
	require.NoError(s.t, err)
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "VmHWM") {
			found = append(found, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(found, ", ")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
