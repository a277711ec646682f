package sql_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/install"
	"github.com/awa-pg/awa/internal/pgserver"
)

// Those who hold the lock that is waited for are named, and nobody else: each once, the oldest transaction first.
func TestUpgradeNamesWhoHoldsTheTable(t *testing.T) {
	d := newDatabase(t)
	s, other := d.session(), d.session()
	s.enqueueMany("q", 3)
	other.exec("begin; select * from awa.workers") // which is not the one that is waited for
	var named []string
	for i := range 3 {
		reader := d.session()
		reader.exec(fmt.Sprintf("set application_name = 'reader%d'; begin; select count(*) from awa.jobs", i))
		named = append(named, fmt.Sprintf("process %d of role %s (reader%d) holds %%s, in a transaction since", reader.pid,
			one[string](s, "select current_user"), i))
	}
	this, err := install.Embedded()
	require.NoError(t, err)
	for name, try := range map[string]func() error{
		"upgrade": func() error {
			_, err := d.installs(version(t, "0.2.0", migration2), install.Options{Wait: 300 * time.Millisecond})
			return err
		},
		"uninstall": func() error {
			_, err := d.uninstalls(this, install.Options{Wait: 300 * time.Millisecond, Force: true})
			return err
		},
	} {
		err := try()
		require.Equal(t, "55P03", sqlState(err), err)
		table := regexp.MustCompile(`in the way: (awa\.\w+) has not become free`).FindStringSubmatch(err.Error())
		require.NotNil(t, table, "%s: %v", name, err)
		holders := strings.Split(detail(err), "; ")
		require.Len(t, holders, len(named), detail(err))
		for i, holder := range holders {
			require.Contains(t, holder, fmt.Sprintf(named[i], table[1]))
		}
	}
}

// A prepared transaction has no session: it is named by its own name, whichever lock it holds.
func TestPreparedTransactionsInTheWay(t *testing.T) {
	started, err := pgserver.Start(t.Context(),
		pgserver.Config{Settings: map[string]string{"max_prepared_transactions": "5"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, started.Stop()) })
	own := server{started, t}
	d, elsewhere := own.database("app", true), own.database("elsewhere", false)
	s, other := d.session(), elsewhere.session()
	s.exec("create role pod login")
	this, err := install.Embedded()
	require.NoError(t, err)
	wait := install.Options{Wait: 50 * time.Millisecond, Force: true}
	installs := func() error { _, err := d.installs(version(t, "0.2.0", migration2), wait); return err }
	uninstalls := func() error { _, err := d.uninstalls(this, wait); return err }
	for _, c := range []struct {
		s     *session
		does  string
		tries []func() error
	}{
		{s, "select count(*) from awa.jobs", []func() error{installs, uninstalls}},
		{s, fmt.Sprintf("select pg_advisory_xact_lock(%d)", lockKey), []func() error{installs, uninstalls}},
		{s, "grant usage on schema awa to pod", []func() error{installs, uninstalls}},
		{other, "create table t (); grant select on t to awa_maintainer", []func() error{uninstalls}},
	} {
		c.s.exec("begin; " + c.does + "; prepare transaction 'in doubt'")
		for _, try := range c.tries {
			err := try()
			require.Equal(t, "55P03", sqlState(err), err)
			require.Contains(t, detail(err), "prepared transaction in doubt of role postgres", c.does)
			if c.s == s {
				require.Contains(t, hint(err), "rollback prepared", c.does)
			}
		}
		c.s.exec("rollback prepared 'in doubt'")
	}
	require.NoError(t, installs())
}
