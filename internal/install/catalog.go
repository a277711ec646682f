package install

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
)

//go:generate go run ../withpg -- go run ./describe

// Catalog is what the catalog of a server holds once Awa is installed, as far as installations and the doctor compare
// it. The names of roles are without their prefix.
type Catalog struct {
	Functions []Function `json:"functions"`
	Relations []Relation `json:"relations"`
	Triggers  []Trigger  `json:"triggers"`
	Grants    []Grant    `json:"grants"`
}

type Function struct {
	Name       string   `json:"name"`
	Names      []string `json:"names"` // of arguments, the out ones included
	Types      []string `json:"types"`
	Defaults   int      `json:"defaults"`
	Result     string   `json:"result"`     // empty when the out arguments are it
	Attributes []string `json:"attributes"` // sorted
	Settings   []string `json:"settings"`   // sorted
	Header     string   `json:"header"`     // a hash of the text before the body, so that a program knows an old catalog
	// From the text: nil when it is in standard SQL.
	Body *string `json:"body,omitempty"`
	SQL  string  `json:"-"` // the statement that creates it
}

type Relation struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"` // table, partition, sequence, index or view
	Options []string `json:"options"`
}

type Trigger struct {
	Name     string `json:"name"`
	Table    string `json:"table"`
	Function string `json:"function"`
}

type Grant struct {
	Role string `json:"role"`
	Kind string `json:"kind"` // function or relation
	Name string `json:"name"`
}

// embeddedCatalog is that of the sources of this program. A test compares it with a server's.
//
//go:embed catalog.json
var embeddedCatalog []byte

//go:embed catalog.sql
var catalogQuery string

// Describe returns the catalog of sources: it installs them in an empty database, and reads what is there then.
func Describe(ctx context.Context, conn *pgx.Conn, migrations, functions fs.FS) (catalog Catalog, err error) {
	s, err := read(migrations, functions)
	if err != nil {
		return catalog, err
	}
	for _, v := range s.Views { // others are dropped
		s.Relations = append(s.Relations, Relation{Name: v.Name, Kind: "view"})
	}
	if _, err := s.Install(ctx, conn, Options{}); err != nil {
		return catalog, err
	}
	var text []byte
	if err := conn.QueryRow(ctx, catalogQuery).Scan(&text); err != nil {
		return catalog, err
	}
	if err := json.Unmarshal(text, &catalog); err != nil {
		return catalog, err
	}
	for i, f := range catalog.Functions {
		catalog.Functions[i].Header = headerHash(s.routines[f.Name])
	}
	return catalog, nil
}

// DescribeEmbedded returns the catalog of the sources of this program, as it should be, as JSON, and as it is embedded.
func DescribeEmbedded(ctx context.Context, conn *pgx.Conn) (want, embedded []byte, err error) {
	migrations, functions, err := embeddedFiles()
	if err != nil {
		return nil, nil, err
	}
	catalog, err := Describe(ctx, conn, migrations, functions)
	if err != nil {
		return nil, nil, err
	}
	want, err = catalog.lines()
	return want, embeddedCatalog, err
}

// lines returns the catalog as JSON, an object a line.
func (c Catalog) lines() ([]byte, error) {
	text := []byte("{")
	for i, list := range []struct {
		name    string
		objects []any
	}{{"functions", anys(c.Functions)}, {"relations", anys(c.Relations)}, {"triggers", anys(c.Triggers)},
		{"grants", anys(c.Grants)}} {
		if i > 0 {
			text = append(text, ',')
		}
		text = fmt.Appendf(text, "\n%q: [", list.name)
		for i, object := range list.objects {
			if i > 0 {
				text = append(text, ',')
			}
			line, err := json.Marshal(object)
			if err != nil {
				return nil, err
			}
			text = append(append(text, '\n'), line...)
		}
		text = append(text, ']')
	}
	return append(text, "\n}\n"...), nil
}

func anys[T any](list []T) (all []any) {
	for _, v := range list {
		all = append(all, v)
	}
	return all
}
