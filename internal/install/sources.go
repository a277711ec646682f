package install

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/tern/v2/migrate"

	"github.com/awa-pg/awa/sql"
)

// Sources is what a version of Awa installs, and what the catalog holds of it then.
type Sources struct {
	Catalog
	Schema  int      `json:"schema"`  // the number of migrations
	Version string   `json:"version"` // what awa.version() returns
	Roles   []string `json:"roles"`   // without the prefix
	Views   []View   `json:"-"`

	Migrations []Migration `json:"-"`
	Pieces     []Piece     `json:"-"` // of the code package, in order
	Hash       string      `json:"-"` // of all that is installed

	routines map[string]string // the statements that create them, by name
}

type View struct {
	Name  string
	Query string
	Hash  string // of all statements that create it
}

type Migration struct {
	Number      int
	SQL         string
	Fingerprint string // of the tables: of this migration and those before it
}

// A Piece is a part of the code package: one statement that creates a view or a routine (a function or a procedure),
// with the comment that follows, or what stands between two of them. Only the former have a name.
type Piece struct{ Kind, Name, SQL, Hash string }

// Routines returns the pieces that create functions and procedures.
func (s *Sources) Routines() []Piece {
	return slices.DeleteFunc(slices.Clone(s.Pieces), func(p Piece) bool { return p.Kind != "routine" })
}

// Fingerprint returns that of the last migration.
func (s *Sources) Fingerprint() string { return s.Migrations[len(s.Migrations)-1].Fingerprint }

// roles are those that an installation makes, each with the installation's prefix before it.
var roles = []string{"owner", "producer", "worker", "maintainer", "operator", "reader"}

// Embedded returns the sources of this program.
func Embedded() (*Sources, error) {
	migrations, functions, err := embeddedFiles()
	if err != nil {
		return nil, err
	}
	var catalog Catalog
	if err := json.Unmarshal(embeddedCatalog, &catalog); err != nil {
		return nil, err
	}
	return Load(migrations, functions, catalog)
}

func embeddedFiles() (migrations, functions fs.FS, err error) {
	migrations, err = fs.Sub(sql.Migrations, "migrations")
	if err != nil {
		return nil, nil, err
	}
	functions, err = fs.Sub(sql.Functions, "functions")
	return migrations, functions, err
}

// Load reads migrations and a code package, both in the form that tern reads. The catalog is that of a server on which
// they are installed: see [Describe].
func Load(migrations, functions fs.FS, catalog Catalog) (*Sources, error) {
	s, err := read(migrations, functions)
	if err != nil {
		return nil, err
	}
	return s, s.use(catalog)
}

// read reads sources without a catalog.
func read(migrations, functions fs.FS) (*Sources, error) {
	s := &Sources{Roles: roles, routines: map[string]string{}}
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
		io.WriteString(tables, withoutComments(string(text)))
		hash.Write(text)
		s.Migrations = append(s.Migrations, Migration{i + 1, string(text), fmt.Sprintf("%x", tables.Sum(nil)[:16])})
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
	return s, nil
}

// readCode splits the code package into its pieces.
func (s *Sources) readCode(text string) {
	views := map[string]View{}
	last := Piece{}
	end := func() {
		s.Pieces = append(s.Pieces, last)
		last = Piece{}
	}
	for _, statement := range splitStatements(text) {
		code := withoutHeader(statement)
		if body, ok := bodyOf(code, "version"); ok {
			_, body, _ = strings.Cut(body, "'")
			s.Version, _, _ = strings.Cut(body, "'")
		}
		kind, name, rest := created(code)
		switch {
		case kind == "view":
			end()
			last = Piece{Kind: kind, Name: name, SQL: statement}
			_, query, _ := strings.Cut(strings.ReplaceAll(rest, " as\n", " as "), " as ")
			views[name] = View{Name: name, Query: strings.TrimSuffix(query, ";")}
		case kind == "routine":
			s.routines[name] = code
			end()
			last = Piece{Kind: kind, Name: name, SQL: statement}
		case last.Kind == "" || isCommentOn(code, last.Name):
			last.SQL += statement
		default:
			end()
			last.SQL = statement
		}
	}
	end()
	// Where one needs the other, a view is created twice: the hash is of both statements.
	texts := map[string]string{}
	for _, p := range s.Pieces {
		texts[p.Kind+p.Name] += withoutHeader(p.SQL)
	}
	for i, p := range s.Pieces {
		s.Pieces[i].Hash = fmt.Sprintf("%x", md5.Sum([]byte(texts[p.Kind+p.Name])))
	}
	for _, name := range slices.Sorted(maps.Keys(views)) {
		view := views[name] // as it was created last
		view.Hash = fmt.Sprintf("%x", md5.Sum([]byte(texts["view"+name])))
		s.Views = append(s.Views, view)
	}
}

// created returns what a statement creates, if that is a view or a routine, and what follows the name.
func created(statement string) (kind, name, rest string) {
	for prefix, kind := range map[string]string{"view": "view", "function": "routine", "procedure": "routine"} {
		if name, rest, ok := named(statement, "create or replace "+prefix+" awa."); ok {
			return kind, name, rest
		}
	}
	return "", "", ""
}

// isCommentOn tells whether a statement is the comment on a view or a routine.
func isCommentOn(statement, of string) bool {
	for _, kind := range []string{"view", "function", "procedure"} {
		if name, _, ok := named(statement, "comment on "+kind+" awa."); ok && name == of {
			return true
		}
	}
	return false
}

// splitStatements splits text where a line ends with a semicolon, but not inside a body or a literal in $$.
func splitStatements(text string) (statements []string) {
	quoted, from, at := false, 0, 0
	for line := range strings.Lines(text) {
		at += len(line)
		code, _, _ := strings.Cut(line, " -- ")
		if strings.Count(line, "$$")%2 == 1 {
			quoted = !quoted
		}
		if !quoted && strings.HasSuffix(strings.TrimRight(code, " \n"), ";") && !strings.HasPrefix(line, "--") {
			statements = append(statements, text[from:at])
			from = at
		}
	}
	return append(statements, text[from:])
}

// withoutHeader returns a statement without the blank lines and the comment before it.
func withoutHeader(statement string) string {
	for line := range strings.Lines(statement) {
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "--") {
			break
		}
		statement = statement[len(line):]
	}
	return strings.TrimSpace(statement)
}

// named returns the name of what a statement creates, and what follows it.
func named(statement, prefix string) (name, rest string, ok bool) {
	rest, ok = strings.CutPrefix(statement, prefix)
	end := strings.IndexFunc(rest, func(c rune) bool { return c == ' ' || c == '(' })
	if !ok || end < 0 {
		return "", "", false
	}
	return rest[:end], rest[end:], true
}

// bodyOf returns the text between $$ of a statement that creates a function, where it has one.
func bodyOf(statement, function string) (body string, ok bool) {
	name, rest, ok := named(strings.Replace(statement, " procedure ", " function ", 1), "create or replace function awa.")
	if !ok || name != function {
		return "", false
	}
	_, body, ok = strings.Cut(rest, "\nas $$")
	return strings.TrimSuffix(body, "$$;"), ok
}

// headerHash returns a hash of what comes before the body of a function.
func headerHash(statement string) string {
	header, _, _ := strings.Cut(statement, "\nas $$")
	return fmt.Sprintf("%.4x", md5.Sum([]byte(oneLine(header))))
}

// use takes over a catalog, and adds the text of functions.
func (s *Sources) use(catalog Catalog) error {
	s.Catalog = catalog
	s.Functions = slices.Clone(catalog.Functions)
	code := s.routines
	isOld := len(code) != len(s.Functions)
	for i, f := range s.Functions {
		f.SQL = code[f.Name]
		if body, ok := bodyOf(f.SQL, f.Name); ok {
			f.Body = &body
		}
		isOld = isOld || f.SQL == "" || f.Header != headerHash(f.SQL)
		s.Functions[i] = f
	}
	if isOld {
		return errors.New("the catalog is of other sources: run go generate ./internal/install")
	}
	return nil
}

// withoutComments returns a migration without lines of comment, and with single blanks: what its fingerprint is of.
func withoutComments(text string) string {
	lines := strings.Split(text, "\n")
	return oneLine(strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(strings.TrimSpace(line), "--")
	}), "\n")) + "\n"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
