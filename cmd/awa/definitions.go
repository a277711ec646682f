package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
)

// definition is this program's text of a view, or of a function in standard SQL.
type definition struct {
	Topic   string `json:"topic"`
	Subject string `json:"subject"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Code    string `json:"code"` // what follows the name
}

// compareDefinitions compares what the server keeps no text of, but only parsed: views, and functions in standard SQL.
// To parse this program's text is not harmless: a constant beside a column of a domain is read by the domain's check.
// So it is done with the rights of the schema's owner, as what reads tables is. A role that can't act as the owner, and
// is no superuser, does it with its own rights, where the functions, and the types of all columns, are as they should
// be.
func (d *doctor) compareDefinitions(ctx context.Context, functions bool) (same bool) {
	var definitions []definition
	for _, v := range d.src.Views {
		definitions = append(definitions, definition{"views", "awa." + v.Name, "view", v.Name, v.Query})
	}
	for _, f := range d.src.Functions {
		if f.Body == nil {
			definitions = append(definitions,
				definition{"functions", "awa." + f.Name + "(" + strings.Join(f.Types, ", ") + ")", "function", f.Name,
					strings.ReplaceAll(strings.TrimPrefix(f.SQL, "create or replace function awa."+f.Name), f.Name+".", "_doctor.")})
		}
	}
	parameter, err := json.Marshal(definitions)
	if err != nil {
		d.fail("views", err)
		return false
	}
	found, err := d.collectAs(ctx, d.owner, "plpgsql", definitionsBody, string(parameter), "")
	if errors.Is(err, errNotMade) {
		switch {
		case d.superuser:
			d.add(levelWarning, "access", "views", "not looked at: their text would be parsed with all rights of a superuser",
				d.asReader())
			return false
		case !functions:
			d.fail("views", err)
			return false
		case !d.run(ctx, typeCheck):
			return false
		}
		found, err = d.collectAs(ctx, "current_user", "plpgsql", definitionsBody, string(parameter), "")
	}
	if err != nil {
		d.fail("views", err)
		return false
	}
	for _, f := range found {
		if f.Level != "" {
			d.findings = append(d.findings, f)
		}
	}
	if len(found) == 0 {
		d.add(levelOK, "views", "", "they are this program's", "")
	}
	return len(found) == 0
}
