package sql_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/awa-pg/awa/internal/install"
)

// What belongs to an extension is not in a dump, and can't be dropped. Installing and removing say so, change nothing,
// and say what to do; while nothing is to be done, programs work.
func TestMembersOfAnExtension(t *testing.T) {
	for object, described := range map[string]string{
		"schema awa": "schema awa", "table awa.deferred_jobs": "table awa.deferred_jobs",
		"procedure awa.run_maintenance()": "function awa.run_maintenance()",
	} {
		t.Run(object, func(t *testing.T) {
			d := newDatabase(t)
			s := d.session()
			s.enqueue("q")
			s.exec("alter extension plpgsql add " + object)
			this, err := install.Embedded()
			require.NoError(t, err)
			result, err := d.installs(this, install.Options{})
			require.NoError(t, err)
			require.False(t, result.Changed)

			refused := func(err error) {
				t.Helper()
				require.Equal(t, "55000", sqlState(err))
				require.ErrorContains(t, err, "schema awa, or something in it, belongs to an extension")
				require.Contains(t, detail(err), "These do, at least: "+described+".")
			}
			_, err = d.installs(version(t, "0.1.1", newBody), install.Options{})
			refused(err)
			for _, force := range []bool{false, true} {
				_, err = d.uninstalls(this, install.Options{Force: force})
				refused(err)
			}
			require.Len(t, s.claim("q", 1), 1)

			cures := list[string](s, `select format('alter extension %I drop %s %s', e.extname, i.type, i.identity)
				from pg_depend d join pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass,
				     pg_identify_object(d.classid, d.objid, 0) i
				where d.deptype = 'e' and (i.schema = 'awa' or i.identity = 'awa')`)
			require.Len(t, cures, 1)
			var e *pgconn.PgError
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Hint, cures[0]+";")
			s.exec(cures[0])
			_, err = d.installs(version(t, "0.1.1", newBody), install.Options{})
			require.NoError(t, err)
			_, err = d.uninstalls(this, install.Options{Force: true})
			require.NoError(t, err)
		})
	}
}
