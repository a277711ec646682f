package install

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/tern/v2/migrate"

	"github.com/awa-pg/awa/sql"
)

// Sources is what a version of Awa installs, in the words of pg_catalog where that is easy.
type Sources struct {
	Schema    int        `json:"schema"`  // the number of migrations
	Version   string     `json:"version"` // what awa.version() returns
	Functions []Function `json:"functions"`
	Relations []Relation `json:"relations"`
	Triggers  []Trigger  `json:"triggers"`
	Roles     []string   `json:"roles"` // without the prefix
	Grants    []Grant    `json:"grants"`
	Views     []View     `json:"-"`

	Migrations []Migration `json:"-"`
	Pieces     []Piece     `json:"-"` // of the code package, in order
	Hash       string      `json:"-"` // of all that is installed
}

type Function struct {
	Name       string   `json:"name"`
	Names      []string `json:"names"` // of arguments, the out ones included
	Types      []string `json:"types"`
	Defaults   int      `json:"defaults"`
	Result     string   `json:"result"`     // empty when the out arguments are it
	Attributes []string `json:"attributes"` // sorted
	Settings   []string `json:"settings"`   // sorted
	Body       *string  `json:"body"`       // nil when it is in standard SQL
	SQL        string   `json:"-"`          // the statement that creates it
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
	Role string `json:"role"` // without the prefix
	Kind string `json:"kind"` // function or relation
	Name string `json:"name"`
}

type View struct {
	Name    string
	Options []string
	Query   string
	Hash    string // of all statements that create it
}

type Migration struct {
	Number      int
	SQL         string
	Fingerprint string // of the tables: of this migration and those before it
}

// A Piece is a part of the code package: one statement that creates a view, or what stands between two of them.
type Piece struct{ View, SQL string }

// Fingerprint returns that of the last migration.
func (s *Sources) Fingerprint() string { return s.Migrations[len(s.Migrations)-1].Fingerprint }

// roles are those that an installation makes, each with the installation's prefix before it.
var roles = []string{"owner", "producer", "worker", "maintainer", "operator", "reader"}

// Embedded returns the sources of this program.
func Embedded() (*Sources, error) {
	migrations, err := fs.Sub(sql.Migrations, "migrations")
	if err != nil {
		return nil, err
	}
	functions, err := fs.Sub(sql.Functions, "functions")
	if err != nil {
		return nil, err
	}
	return Load(migrations, functions)
}

// Load reads migrations and a code package, both in the form that tern reads, and takes them apart. It knows no more of
// SQL than the files need; tests compare what it finds with what a server makes of them.
func Load(migrations, functions fs.FS) (*Sources, error) {
	s := &Sources{Functions: []Function{}, Relations: []Relation{}, Triggers: []Trigger{}, Grants: []Grant{}, Roles: roles}
	names, err := migrate.FindMigrations(migrations)
	if err != nil {
		return nil, err
	}
	hash, tables := sha256.New(), sha256.New()
	for i, name := range names {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			return nil, err
		}
		io.WriteString(tables, statements(string(text)))
		hash.Write(text)
		s.Migrations = append(s.Migrations, Migration{i + 1, string(text), fmt.Sprintf("%x", tables.Sum(nil)[:16])})
		s.readTables(string(text))
	}
	s.Schema = len(names)
	code, err := migrate.LoadCodePackage(functions)
	if err != nil {
		return nil, err
	}
	text, err := code.Eval(nil)
	if err != nil {
		return nil, err
	}
	s.readCode(text)
	fmt.Fprintf(hash, "%d\n%s", s.Schema, text)
	templates, err := fs.Glob(sql.Install, "install/*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range templates {
		text, err := fs.ReadFile(sql.Install, name)
		if err != nil {
			return nil, err
		}
		hash.Write(text)
	}
	s.Hash = fmt.Sprintf("%x", hash.Sum(nil)[:16])
	// The installation makes it, before the first migration.
	s.Relations = append(s.Relations, Relation{Name: "schema_version", Kind: "table", Options: []string{}},
		Relation{Name: "schema_version_pkey", Kind: "index", Options: []string{}})
	return s, nil
}

var (
	functionPattern = regexp.MustCompile(`(?ms)^create or replace (?:function|procedure) awa\.(\w+)\((.*?)\n(?:as ` +
		`\$\$(.*?)\$\$;|return .*?;(?: --[^\n]*)?)$`)
	attributePattern = regexp.MustCompile(`\b(?:immutable|stable|strict|parallel safe|parallel restricted|security ` +
		`definer)\b`)
	settingPattern = regexp.MustCompile(`(?m)^set (\w+) = (.+)$`)
	resultPattern  = regexp.MustCompile(`^ returns (.+)`)
	versionPattern = regexp.MustCompile(`'(.*)'`)
	viewPattern    = regexp.MustCompile(`(?ms)^create or replace view awa\.(\w+)(?: with \(([^)]*)\))? as\s+(.*?);$`)
	triggerPattern = regexp.MustCompile(`create (?:constraint|or replace) trigger (\w+) [^;]*? on awa\.(\w+)[^;]*? ` +
		`execute function awa\.(\w+)`)
	grantPattern    = regexp.MustCompile(`\('awa_(\w+)', '(function|procedure|view) awa\.(\w+)'\)`)
	callAllPattern  = regexp.MustCompile(`'function awa\.(\w+)'\s+from unnest\(array\[(.*?)\]`)
	quotedPattern   = regexp.MustCompile(`'(\w+)'`)
	relationPattern = regexp.MustCompile(`(?s)create (table|sequence|unique index|index) (?:awa\.)?([\w%$]+)(.*?);`)
	optionsPattern  = regexp.MustCompile(`partition of .* with \(([^)]*)\)`)
)

// readCode finds functions, views, triggers and grants in the code package.
func (s *Sources) readCode(text string) {
	for _, m := range functionPattern.FindAllStringSubmatch(text, -1) {
		f := Function{SQL: m[0], Name: m[1], Names: []string{}, Types: []string{}, Attributes: []string{},
			Settings: []string{}}
		arguments, rest := splitArguments(m[2])
		if _, columns, ok := strings.Cut(rest, " returns table ("); ok { // they are out arguments
			var more []string
			more, rest = splitArguments(columns)
			arguments = append(arguments, more...)
		}
		for _, a := range arguments {
			a, _, hasDefault := strings.Cut(a, " default ")
			if hasDefault {
				f.Defaults++
			}
			name, kind, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(a, "out "), "inout "), " ")
			name = strings.Trim(name, `"`) // as the catalog has it
			f.Names, f.Types = append(f.Names, name), append(f.Types, kind)
		}
		if m := resultPattern.FindStringSubmatch(rest); m != nil {
			f.Result = m[1]
		}
		f.Attributes = append(f.Attributes, attributePattern.FindAllString(rest, -1)...)
		slices.Sort(f.Attributes)
		for _, m := range settingPattern.FindAllStringSubmatch(rest, -1) {
			f.Settings = append(f.Settings, m[1]+"="+m[2])
		}
		slices.Sort(f.Settings)
		if strings.HasSuffix(m[0], "$$;") {
			f.Body = &m[3]
		}
		if f.Name == "version" {
			s.Version = versionPattern.FindStringSubmatch(m[3])[1]
		}
		s.Functions = append(s.Functions, f)
	}
	at := 0
	for _, m := range viewPattern.FindAllStringSubmatchIndex(text, -1) {
		name, statement := text[m[2]:m[3]], text[m[0]:m[1]]
		s.Pieces = append(s.Pieces, Piece{"", text[at:m[0]]}, Piece{name, statement})
		at = m[1]
		// Where one needs the other, a view is created twice: the last time counts.
		view := View{Name: name, Options: []string{}, Query: text[m[6]:m[7]]}
		if m[4] >= 0 {
			view.Options = strings.Split(strings.ReplaceAll(text[m[4]:m[5]], " ", ""), ",")
		}
		s.Views = slices.DeleteFunc(s.Views, func(v View) bool {
			if v.Name == name {
				view.Hash = v.Hash
			}
			return v.Name == name
		})
		view.Hash = fmt.Sprintf("%x", md5.Sum([]byte(view.Hash+statement)))
		s.Views = append(s.Views, view)
	}
	s.Pieces = append(s.Pieces, Piece{"", text[at:]})
	for _, v := range s.Views {
		s.Relations = append(s.Relations, Relation{Name: v.Name, Kind: "view", Options: v.Options})
	}
	for _, m := range triggerPattern.FindAllStringSubmatch(text, -1) {
		s.Triggers = append(s.Triggers, Trigger{m[1], m[2], m[3]})
	}
	for _, m := range grantPattern.FindAllStringSubmatch(text, -1) {
		kind := "function"
		if m[2] == "view" {
			kind = "relation"
		}
		s.Grants = append(s.Grants, Grant{m[1], kind, m[3]})
	}
	for _, m := range callAllPattern.FindAllStringSubmatch(text, -1) {
		for _, role := range quoted(m[2]) {
			s.Grants = append(s.Grants, Grant{strings.TrimPrefix(role, "awa_"), "function", m[1]})
		}
	}
}

// readTables finds tables, sequences and indexes in a migration. Loops create them by format: %1$s is a segment, %s a
// digit of the wake clocks.
func (s *Sources) readTables(text string) {
	for _, m := range relationPattern.FindAllStringSubmatch(text, -1) {
		r := Relation{Kind: strings.TrimPrefix(m[1], "unique "), Options: []string{}}
		definition := oneLine(m[3])
		if options := optionsPattern.FindStringSubmatch(definition); options != nil {
			r.Kind, r.Options = "partition", strings.Split(strings.ReplaceAll(options[1], " ", ""), ",")
		}
		for _, digit := range "0123456789abcdef" {
			r.Name = strings.NewReplacer("%1$s", string(digit), "%s", string(digit)).Replace(m[2])
			if strings.Contains(m[2], "%1$s") && digit > '3' {
				break
			}
			s.Relations = append(s.Relations, r)
			if r.Name == m[2] {
				break
			}
		}
		if strings.Contains(definition, "primary key") {
			s.Relations = append(s.Relations, Relation{Name: r.Name + "_pkey", Kind: "index", Options: []string{}})
		}
	}
}

// splitArguments splits what follows the opening parenthesis of a list of arguments, up to the closing one.
func splitArguments(text string) (arguments []string, rest string) {
	depth, quoted, from := 0, false, 0
	for i, c := range text {
		switch {
		case c == '\'':
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case (c == ',' || c == ')') && depth == 0:
			if a := oneLine(text[from:i]); a != "" {
				arguments = append(arguments, a)
			}
			if c == ')' {
				return arguments, text[i+1:]
			}
			from = i + 1
		}
	}
	return arguments, ""
}

func quoted(text string) (names []string) {
	for _, m := range quotedPattern.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

// statements returns a migration without lines of comment, and with single blanks: what its fingerprint is of.
func statements(text string) string {
	lines := strings.Split(text, "\n")
	return oneLine(strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(strings.TrimSpace(line), "--")
	}), "\n")) + "\n"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
