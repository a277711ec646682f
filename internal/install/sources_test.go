package install

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// A change of a function's header without a new catalog is refused; a change of its body is not.
func TestOldCatalogIsRefused(t *testing.T) {
	migrations, _, err := embeddedFiles()
	require.NoError(t, err)
	_, err = Embedded()
	require.NoError(t, err)
	load := func(code string) error {
		_, err := Load(migrations, fstest.MapFS{"install.sql": &fstest.MapFile{Data: []byte(code)}}, Catalog{
			Functions: []Function{{Name: "f", Header: headerHash("create or replace function awa.f(a int) returns int\n" +
				"language sql\nas $$ select 1; $$;")}}})
		return err
	}
	require.NoError(t,
		load("-- One.\ncreate or replace function awa.f(a int) returns int\nlanguage sql\nas $$ select 2; $$;\n"))
	for _, code := range []string{
		"create or replace function awa.f(a bigint) returns int\nlanguage sql\nas $$ select 1; $$;\n",
		"create or replace function awa.g(a int) returns int\nlanguage sql\nas $$ select 1; $$;\n",
		"create or replace function awa.f(a int) returns int\nlanguage sql\nas $$ select 1; $$;\n" +
			"create or replace function awa.g() returns int\nlanguage sql\nas $$ select 1; $$;\n",
		"",
	} {
		require.ErrorContains(t, load(code), "go generate ./internal/install", code)
	}
}

func TestStatementsAreSplit(t *testing.T) {
	text := "-- A; b.\ncreate or replace view awa.v with (x = y) as\nselect 1 as n; -- one\n" +
		"comment on view awa.v is\n  'V; w';\ncreate or replace function awa.f() returns int\nas $$\nbegin\n  return 1;\n" +
		"end\n$$;\n\n"
	statements := splitStatements(text)
	require.Len(t, statements, 4)
	require.Equal(t, "create or replace view awa.v with (x = y) as\nselect 1 as n; -- one", withoutHeader(statements[0]))
	require.Equal(t, "comment on view awa.v is\n  'V; w';", withoutHeader(statements[1]))
	body, ok := bodyOf(withoutHeader(statements[2]), "f")
	require.True(t, ok)
	require.Equal(t, "\nbegin\n  return 1;\nend\n", body)
	require.Equal(t, "\n", statements[3])
}
