// Describe writes catalog.json: what the catalog of a server holds once these sources are installed.
//
//	go generate ./internal/install
package main

import (
	"context"
	"log"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/awa-pg/awa/internal/install"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("describe: ")
	if err := describe(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// describe installs in the database of DATABASE_URL, which is empty: withpg has made it.
func describe(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	want, _, err := install.DescribeEmbedded(ctx, conn)
	if err != nil {
		return err
	}
	return os.WriteFile("catalog.json", want, 0o644)
}
