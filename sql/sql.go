// Package sql holds the tables and the functions of Awa, so that a program can install them.
package sql

import (
	"embed"
	"strings"
)

// Migrations are the numbered files that create and change tables, in the form that tern reads.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Functions are a tern code package: functions, views and grants, which can be installed again at any time.
//
//go:embed functions/*.sql functions/*/*.sql
var Functions embed.FS

// Version is what awa.version() returns.
var Version = func() string {
	text, err := Functions.ReadFile("functions/read/version.sql")
	if err != nil {
		panic(err)
	}
	_, version, _ := strings.Cut(string(text), "as $$ select '")
	version, _, _ = strings.Cut(version, "'")
	return version
}()

// Install are the templates of what installs these, and of what removes them.
//
//go:embed install/*.sql
var Install embed.FS
