package docs_test

import (
	"archive/zip"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// version is the version that the checkout is published as: the one that the modules of this project require of each
// other.
const version = "v0.1.0"

// published returns the environment in which the go command finds the modules of this project as they are in this
// checkout, and all others where it did before. It has a module cache of its own, so that none of these stays.
func published(t *testing.T) []string {
	t.Helper()
	proxy := t.TempDir()
	for _, dir := range []string{".", "cmd/awa", "otelawa"} {
		root := filepath.Join("..", dir)
		module := path.Join("github.com/awa-pg/awa", dir)
		files := filepath.Join(proxy, module, "@v")
		require.NoError(t, os.MkdirAll(files, 0o755))
		mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
		require.NoError(t, err)
		for name, content := range map[string]string{
			"list":            version + "\n",
			version + ".info": `{"Version": "` + version + `", "Time": "2026-01-01T00:00:00Z"}`,
			version + ".mod":  string(mod),
		} {
			require.NoError(t, os.WriteFile(filepath.Join(files, name), []byte(content), 0o644))
		}
		zipModule(t, root, module+"@"+version, filepath.Join(files, version+".zip"))
	}
	goEnv := strings.Fields(run(t, "..", nil, "go", "env", "GOMODCACHE", "GOPROXY"))
	require.Len(t, goEnv, 2)
	return []string{
		"GOPROXY=file://" + proxy + ",file://" + filepath.Join(goEnv[0], "cache", "download") + "," + goEnv[1],
		"GOMODCACHE=" + t.TempDir(),
		"GOFLAGS=-modcacherw -trimpath", // the build cache can be used again, though the module cache is another one
		"GOSUMDB=off",
		"GOWORK=off",
	}
}

// zipModule writes the archive of the module whose files are below root: without what has a go.mod of its own.
func zipModule(t *testing.T, root, prefix, zipPath string) {
	t.Helper()
	file, err := os.Create(zipPath)
	require.NoError(t, err)
	defer file.Close()
	archive := zip.NewWriter(file)
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); name != "." && (err == nil || strings.HasPrefix(name, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		w, err := archive.Create(prefix + "/" + filepath.ToSlash(name))
		if err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	}))
	require.NoError(t, archive.Close())
	require.NoError(t, file.Close())
}

// A program of somebody else's can require the module of OpenTelemetry, which requires the driver.
func TestOtelawaIsUsable(t *testing.T) {
	dir, env := t.TempDir(), published(t)
	write(t, dir, "main.go", `package main

import (
	"fmt"

	"github.com/awa-pg/awa/driver"
	"github.com/awa-pg/awa/otelawa"
)

func main() {
	client := otelawa.NewClient(driver.NewClient(nil), otelawa.Config{})
	fmt.Println(client != nil, otelawa.Middleware(otelawa.Config{}) != nil)
}
`)
	run(t, dir, env, "go", "mod", "init", "example.org/traced")
	run(t, dir, env, "go", "get", "github.com/awa-pg/awa/otelawa@"+version)
	require.Equal(t, "true true\n", run(t, dir, env, "go", "run", "."))
}

// A program of somebody else's that uses the driver has nothing of what only the command, or otelawa, needs: neither in
// its binary, nor among its modules, nor in go.sum.
func TestDriverBringsFewModules(t *testing.T) {
	dir, env := t.TempDir(), published(t)
	write(t, dir, "main.go", `package main

import "github.com/awa-pg/awa/driver"

func main() { println(driver.NewClient(nil) != nil) }
`)
	run(t, dir, env, "go", "mod", "init", "example.org/shop")
	run(t, dir, env, "go", "get", "github.com/awa-pg/awa/driver@"+version)
	lines := strings.Fields(run(t, dir, env, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "."))
	slices.Sort(lines)
	assert.Equal(t, []string{ // what the driver needs, and tern, which installs Awa
		"dario.cat/mergo", "example.org/shop", "github.com/Masterminds/goutils", "github.com/Masterminds/semver/v3",
		"github.com/Masterminds/sprig/v3", "github.com/awa-pg/awa", "github.com/google/uuid", "github.com/huandu/xstrings",
		"github.com/jackc/pgpassfile", "github.com/jackc/pgservicefile", "github.com/jackc/pgx/v5",
		"github.com/jackc/puddle/v2", "github.com/jackc/tern/v2", "github.com/mitchellh/copystructure",
		"github.com/mitchellh/reflectwalk", "github.com/shopspring/decimal", "github.com/spf13/cast",
		"golang.org/x/crypto", "golang.org/x/sync", "golang.org/x/text",
	}, slices.Compact(lines), "modules of the program")

	all := strings.Fields(run(t, dir, env, "go", "list", "-m", "-f", "{{.Path}}", "all"))
	sums, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	require.NoError(t, err)
	direct, drivers := required(t, ".")
	assert.ElementsMatch(t, []string{
		"github.com/jackc/pgx/v5", "github.com/jackc/tern/v2", "github.com/stretchr/testify", "go.uber.org/goleak",
	}, direct, "what the driver requires")
	drivers = append(drivers, "github.com/awa-pg/awa")
	for _, of := range []string{"cmd/awa", "otelawa"} {
		assert.NotContains(t, all, path.Join("github.com/awa-pg/awa", of))
		direct, _ := required(t, of)
		for _, module := range direct {
			if !slices.Contains(drivers, module) {
				assert.NotContainsf(t, all, module, "modules of the program: only %s needs it", of)
				assert.NotContainsf(t, string(sums), module+" ", "go.sum of the program: only %s needs it", of)
			}
		}
	}
}

// required returns the modules that the module in a directory of this project requires itself, and all of them.
func required(t *testing.T, dir string) (direct, all []string) {
	t.Helper()
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	text := run(t, filepath.Join("..", dir), nil, "go", "mod", "edit", "-json")
	require.NoError(t, json.Unmarshal([]byte(text), &mod))
	require.NotEmpty(t, mod.Require)
	for _, r := range mod.Require {
		all = append(all, r.Path)
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	return direct, all
}

// A user installs the command by its version, outside of any module.
func TestCommandIsInstallable(t *testing.T) {
	home := t.TempDir()
	env := append(published(t), "GOBIN="+home)
	run(t, home, env, "go", "install", "github.com/awa-pg/awa/cmd/awa@"+version)
	require.Contains(t, run(t, home, nil, filepath.Join(home, "awa"), "--version"), "awa "+version+" ")
}
