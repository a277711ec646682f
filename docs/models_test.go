package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	sqlFunction = regexp.MustCompile(`(?m)^create or replace (?:function|procedure) awa\.(\w+)`)
	modelAction = regexp.MustCompile(`(?m)^(?:proctype|inline) (\w+)\(`)
	modelRun    = regexp.MustCompile(`(?m)^ \* (check|small|live|broken) +(\w+) +(.*)$`)
	modelSpeaks = regexp.MustCompile(`awa\.(\w+)\(`)
)

// The models are of functions that there are, and the tables of their README are of what the models have.
func TestModelsNameWhatIsThere(t *testing.T) {
	functions := map[string]bool{}
	paths, err := filepath.Glob(filepath.Join("..", "sql", "functions", "*", "*.sql"))
	require.NoError(t, err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, match := range sqlFunction.FindAllStringSubmatch(string(text), -1) {
			functions[match[1]] = true
		}
	}
	require.Greater(t, len(functions), 300)

	readme, err := os.ReadFile(filepath.Join("models", "README.md"))
	require.NoError(t, err)
	rows := map[string][][]string{} // by the model
	for _, line := range strings.Split(string(readme), "\n") {
		if cells := strings.Split(strings.Trim(line, "| "), " | "); strings.HasPrefix(line, "| ") && len(cells) >= 3 {
			rows[cells[0]] = append(rows[cells[0]], cells)
		}
	}

	models, err := filepath.Glob(filepath.Join("models", "*.pml"))
	require.NoError(t, err)
	require.Len(t, models, 6)
	for _, path := range models {
		name := strings.TrimSuffix(filepath.Base(path), ".pml")
		bytes, err := os.ReadFile(path)
		require.NoError(t, err)
		text := string(bytes)
		for _, match := range modelSpeaks.FindAllStringSubmatch(text, -1) {
			require.True(t, functions[match[1]], "%s: there is no function awa.%s", name, match[1])
		}

		actions := map[string]bool{}
		for _, match := range modelAction.FindAllStringSubmatch(text, -1) {
			actions[match[1]] = true
		}
		mapped, runs := map[string]bool{}, map[string]bool{}
		for _, row := range rows[name] {
			switch len(row) {
			case 3:
				for _, span := range codeSpan.FindAllStringSubmatch(row[1], -1) {
					require.True(t, actions[span[1]], "%s has no action %s", name, span[1])
					mapped[span[1]] = true
				}
				spans := codeSpan.FindAllStringSubmatch(row[2], -1)
				require.True(t, len(spans) > 0 || strings.HasPrefix(row[2], "PostgreSQL: "), "%s: %s", name, row[1])
				for _, span := range spans {
					require.True(t, functions[span[1]], "%s: there is no function awa.%s", name, span[1])
				}
			case 4:
				runs[row[1]+" "+row[3]] = true
			}
		}
		for _, match := range regexp.MustCompile(`(?m)^proctype (\w+)\(`).FindAllStringSubmatch(text, -1) {
			require.True(t, mapped[match[1]], "%s: the README does not say which function %s is", name, match[1])
		}

		broken := 0
		for _, match := range modelRun.FindAllStringSubmatch(text, -1) {
			form, run, rest := match[1], match[2], match[3]
			if form != "broken" {
				require.Contains(t, string(readme), "| "+name+" | "+run+" | ", "the README does not say what was explored")
				continue
			}
			broken++
			require.True(t, runs["`"+run+"` `"+strings.Fields(rest)[0]+"`"], "%s: the README does not have %s", name, run)
			require.Regexp(t, `(?m)^#(if|elif|ifdef|ifndef) .*\b`+run+`\b`, text, "%s does not have the variant", name)
		}
		require.Greater(t, broken, 5)
	}
}
