package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/internal/dburl"
	"github.com/awa-pg/awa/internal/install"
)

func runSQL(args []string, stdout, stderr io.Writer) error {
	var uninstall bool
	if _, _, err := parse("sql", args, 0, stdout, stderr,
		func(flags *flag.FlagSet) { flags.BoolVar(&uninstall, "uninstall", false, "") }); err != nil {
		return err
	}
	sources, err := install.Embedded()
	if err != nil {
		return err
	}
	text, err := sources.File()
	if uninstall {
		text, err = sources.UninstallFile()
	}
	if err == nil {
		_, err = io.WriteString(stdout, text)
	}
	return err
}

func runUninstall(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var options install.Options
	_, databaseURL, err := parse("uninstall", args, 0, stdout, stderr, func(flags *flag.FlagSet) {
		flags.Func("role-prefix", "", rolePrefix(&options.RolePrefix))
		flags.Func("wait", "", wait(&options.Wait))
		flags.BoolVar(&options.Force, "force", false, "")
	})
	if err != nil {
		return err
	}
	if databaseURL == "" {
		return errors.New("which database? Pass --database-url, or set DATABASE_URL, as in\n" +
			"\tawa uninstall --database-url postgres://user:password@localhost:5432/mydb")
	}
	sources, err := install.Embedded()
	if err != nil {
		return err
	}
	cfg, err := dburl.Parse(databaseURL)
	if err != nil {
		return explain(err)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return explain(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	showNames(databaseURL, stdout, stderr)
	removal, err := sources.Uninstall(ctx, conn, options)
	if err != nil {
		return explain(driver.MapError(err))
	}
	if removal.Found {
		fmt.Fprintln(stdout, "Awa is removed.")
	} else {
		fmt.Fprintln(stdout, "There was no schema awa.")
	}
	for _, object := range removal.Others {
		fmt.Fprintf(stdout, "Dropped, too: %s.\n", object)
	}
	for _, role := range slices.Sorted(maps.Keys(removal.Kept)) {
		fmt.Fprintf(stdout, "Role %s stays: %s.\n", role, removal.Kept[role])
	}
	switch {
	case len(removal.Kept) > 0:
	case removal.Found:
		fmt.Fprintln(stdout, "None of its roles is left.")
	default: // the schema would have known the prefix
		fmt.Fprintf(stdout, "No role with the prefix %s is left. Where Awa was installed with another prefix, say so: "+
			"--role-prefix app_.\n", removal.Prefix)
	}
	return nil
}
