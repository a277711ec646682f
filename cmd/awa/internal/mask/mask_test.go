package mask

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func masker(t *testing.T, more ...string) *Masker {
	t.Helper()
	m, err := New(more...)
	require.NoError(t, err)
	return m
}

func TestHides(t *testing.T) {
	m := masker(t, "email", "x*y*z", "*ssn")
	for _, key := range []string{
		"password", "PASSWORD", "db_password_hash", "apiKey", "API-Key", "x.api.key", "Authorization", "clientSecret",
		"access_token", "token", "cookie", "Set-Cookie", "privateKey", "E-Mail", "xyz", "x1y2z", "user_ssn",
	} {
		assert.True(t, m.Hides(key), key)
	}
	for _, key := range []string{"", "user", "cookies", "emails", "xz", "xyzzy", "ssn_of", "pass", "key"} {
		assert.False(t, m.Hides(key), key)
	}
	for _, pattern := range []string{"", "*", "**", " _ "} {
		_, err := New(pattern)
		assert.Error(t, err, pattern)
	}
}

// All but the hidden values stays byte for byte.
func TestJSON(t *testing.T) {
	m := masker(t)
	for text, masked := range map[string]string{
		`{"a": 12345678901234567890123, "b": 1e400, "c" : [1.0,  2]}`:  ``,
		`{"password": "x\"y", "a": 1}`:                                 `{"password": "***", "a": 1}`,
		`{"token":123456789012345678901,"a":{"secret":[1,{"b":"]"}]}}`: `{"token":"***","a":{"secret":"***"}}`,
		`{"secret":null}`:                                  `{"secret":"***"}`,
		`{"secret": true , "b": 2}`:                        `{"secret": "***" , "b": 2}`,
		`{"secret": {"a": "}"}, "b": 2}`:                   `{"secret": "***", "b": 2}`,
		`["password", "x"]`:                                ``,
		`"password"`:                                       ``,
		`{"pass\u0077ord": "x"}`:                           `{"pass\u0077ord": "***"}`,
		`{"a": "{\"token\": \"x\", \"b\": 1}"}`:            `{"a": "{\"token\": \"***\", \"b\": 1}"}`,
		`{"a": "{\"b\": \"{\\\"token\\\": \\\"x\\\"}\"}"}`: `{"a": "{\"b\": \"{\\\"token\\\": \\\"***\\\"}\"}"}`,
		"[{\"error\": \"said {\\\"password\\\": \\\"x\\\"}, and <more>\\n\"}]":// in an error, as it is
		"[{\"error\": \"said {\\\"password\\\": \\\"***\\\"}, and <more>\\n\"}]",
	} {
		if masked == "" {
			masked = text
		}
		assert.Equal(t, masked, string(m.JSON([]byte(text))))
	}
}

func TestRow(t *testing.T) {
	assert.Equal(t, `{"token": "x", "b": {"token": "***"}, "c": [{"token": "***"}], "token": "{\"token\": \"***\"}"}`,
		string(masker(t).Row([]byte(
			`{"token": "x", "b": {"token": "x"}, "c": [{"token": "x"}], "token": "{\"token\": \"x\"}"}`))))
}

// What is cut off anywhere shows nothing of a hidden value.
func TestCutOff(t *testing.T) {
	m := masker(t)
	text := `{"a": "{\"token\": \"hunter\", \"b\": [{\"api_key\": {\"c\": [\"hunter\"]}}]}", "password" : "hunter", ` +
		`"secret": {"é": ["hunter", {"b": "hunter\\\"hunter"}]}, "passwd": "hunter\\", "cookie": "hunter\\\\", ` +
		`"set_cookie": "hunter", "x": "\\", "passphrase": "hunter"}`
	require.True(t, json.Valid([]byte(text)))
	for end := range len(text) + 1 {
		assert.NotContains(t, string(m.JSON([]byte(text[:end]))), "hun", "cut off at %d", end)
		assert.NotContains(t, m.Text(text[:end]), "hun", "text cut off at %d", end)
		assert.NotContains(t, m.Text("said "+encode(text[:end])+" and more"), "hun", "quoted, cut off at %d", end)
	}
	assert.True(t, json.Valid(m.JSON([]byte(text))))
}

func TestText(t *testing.T) {
	m := masker(t)
	for text, masked := range map[string]string{
		`no JSON: "a", password: x`:                           ``,
		`POST /x: {"password": "hunter2", "a": 1}: 400`:       `POST /x: {"password": "***", "a": 1}: 400`,
		`it said "no, {"token":17}`:                           `it said "no, {"token":"***"}`,
		`it said "{\"token\": \"x\"}" to me`:                  `it said "{\"token\": \"***\"}" to me`,
		`it said "{\"token\": 17`:                             `it said "{\"token\": \"***\"`,
		`it said "{\"token\": 17" and "{\"a\":1}"`:            `it said "{\"token\": \"***\"" and "{\"a\":1}"`,
		`{"secret": [{"a": "]"}, 2], "b": {"api-key": null}}`: `{"secret": "***", "b": {"api-key": "***"}}`,
		`"token":`:                          ``,
		`{"token": "x\\", "password": "y"}`: `{"token": "***", "password": "***"}`,
	} {
		if masked == "" {
			masked = text
		}
		assert.Equal(t, masked, m.Text(text))
	}
}

// What a hidden value holds, and ends in, neither ends it early nor uncovers the next one, however often it is quoted.
func TestAnyValueIsHidden(t *testing.T) {
	m := masker(t)
	values := []string{""}
	for from := 0; len(values) < 4*4*4*4; from++ {
		for _, piece := range []string{`\`, `"`, `hun`, `, "a": `} {
			values = append(values, values[from]+piece)
		}
	}
	quoted := func(first, second string, times int) string {
		text := `{"token": ` + encode(first) + `, "b": "c\\", "password": ` + encode(second) + `, "d": [1]}`
		for range times {
			text = encode(text)
		}
		return "it said " + text + " to me"
	}
	for _, value := range values {
		for times := range 4 {
			hidden := m.Text(quoted(value, value, times))
			require.Equal(t, quoted("***", "***", times), hidden, "%q, quoted %d times", value, times)
		}
	}
}

// The work grows with the text, and no faster.
func TestLongTexts(t *testing.T) {
	m := masker(t)
	for _, piece := range []string{`"`, `\"`, `\\\"`, `{"a":`, `{"token":`, `"token": "`, `\"token\": \"`, `[`, `\`} {
		text := strings.Repeat(piece, 200000)
		m.Text(text)
		m.JSON([]byte(text))
	}
}

func TestRestore(t *testing.T) {
	m := masker(t)
	original := `{"password": {"n": 12345678901234567890123}, "a": [{"token": "x"}, {"token": "y"}], "b": 1e400,
		"c": "{\"secret\": 1}", "d": 1}`
	masked := m.JSON([]byte(original))
	require.NotContains(t, string(masked), "1234")
	restored, err := m.Restore([]byte(strings.Replace(string(masked), `"d": 1`, `"d": "<2>"`, 1)), []byte(original))
	require.NoError(t, err)
	assert.Equal(t, `{"a":[{"token":"x"},{"token":"y"}],"b":1e400,"c":"{\"secret\": 1}","d":"<2>",`+
		`"password":{"n":12345678901234567890123}}`, string(restored))

	restored, err = m.Restore([]byte(`{"password": "new", "a": "***"}`), []byte(original))
	require.NoError(t, err)
	assert.Equal(t, `{"a":"***","password":"new"}`, string(restored))
	for _, edited := range []string{`{"my_token": "***"}`, `{"a": [{"token": "***"}]}`, `{`, `1 2`} {
		_, err = m.Restore([]byte(edited), []byte(original))
		assert.Error(t, err, edited)
	}
}

func TestCut(t *testing.T) {
	assert.Equal(t, "aé", Cut("aé", 3))
	assert.Equal(t, "a", Cut("aé", 2))
	assert.Equal(t, "", Cut("é", 1))
}
