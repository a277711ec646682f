// Package dburl reads the URL of a database so that no error tells its password.
package dburl

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrUnreadable says that a URL is not one, or that it can be read in more than one way. It says nothing of the URL:
// any part of it may be the password, or a piece of that.
var ErrUnreadable = errors.New("the database URL can't be read")

var parameterPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// passwordPattern is what is in a URL, or in a list of keywords and values, beside a password, also where it is
// encoded; urlPattern is a URL with one; passwordNames are names of parameters that are meant for one.
var (
	passwordNames   = regexp.MustCompile(`(?i)passw|pwd|secret`)
	passwordPattern = regexp.MustCompile(`(?i):|%(25)*(3a|40)|(passw\w*|pwd)\s*=`)
	urlPattern      = regexp.MustCompile(`(?i)://|:[^@]*@|%(25)*40|(passw\w*|pwd)\s*=`)
	plainPattern    = regexp.MustCompile(`^[A-Za-z0-9_-]*$`)
	hostPattern     = regexp.MustCompile(`^[A-Za-z0-9._:%-]*$|^/|^@/`) // a name, an address, or a socket's directory
)

// knownParameters are settings that people put into a URL. The name of any other may be a piece of a password in which
// & or a space is not encoded, and the server tells it where it is none.
var knownParameters = strings.Fields(`application_name client_encoding datestyle default_transaction_isolation
	default_transaction_read_only extra_float_digits idle_in_transaction_session_timeout intervalstyle jit lock_timeout
	options plan_cache_mode role search_path statement_timeout synchronous_commit timezone work_mem`)

func mayHoldPassword(s string) bool { return passwordPattern.MatchString(s) }

// NotPlain returns the user, the database and the values of parameters that a URL, with the environment, says and that
// are more than a word, and the names of parameters that are not known: errors tell them, and any may be a piece of a
// password.
func NotPlain(databaseURL string) (texts []string) {
	cfg, err := Parse(databaseURL)
	if err != nil {
		return nil // nothing of it is told
	}
	return append(notPlain(cfg.User, cfg.Database), NotPlainSettings(databaseURL)...)
}

// NotPlainSettings is [NotPlain] without the user and the database: for a URL with which somebody has connected, so
// that the server knows both.
func NotPlainSettings(databaseURL string) (texts []string) {
	cfg, err := Parse(databaseURL)
	if err != nil {
		return nil
	}
	texts = notPlain(values(cfg)...)
	for name := range cfg.RuntimeParams {
		if len(name) > 2 && !slices.Contains(knownParameters, strings.ToLower(name)) {
			texts = append(texts, name)
		}
	}
	return texts
}

func notPlain(texts ...string) []string {
	return slices.DeleteFunc(texts, func(s string) bool { return len(s) <= 2 || plainPattern.MatchString(s) })
}

// values are the values of parameters, and the pieces of those that the server takes apart.
func values(cfg *pgx.ConnConfig) (texts []string) {
	for name, value := range cfg.RuntimeParams {
		texts = append(texts, value)
		if name == "options" {
			for _, option := range strings.Fields(value) {
				_, value, _ := strings.Cut(option, "=")
				texts = append(texts, option, value)
			}
		}
	}
	return texts
}

func hosts(cfg *pgx.ConnConfig) (hosts []string) {
	for _, f := range cfg.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	return hosts
}

// Parse is [pgx.ParseConfig], with errors that hold nothing of the URL. It refuses what pgx takes, but not as it was
// meant: a password with a @ or / that is not encoded, say, would become the host's name, which errors tell. The
// connection is in UTF-8, as all that Go writes, whatever the URL says.
func Parse(databaseURL string) (*pgx.ConnConfig, error) {
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		rest, ok := strings.CutPrefix(databaseURL, scheme)
		if !ok {
			continue
		}
		// One @ ends user and password. None may come later, where it would tell that these hold a delimiter.
		userinfo, rest, found := strings.Cut(rest, "@")
		if !found {
			rest = userinfo
		}
		if strings.ContainsAny(rest, "@#") || found && strings.ContainsAny(userinfo, "/?#") {
			return nil, ErrUnreadable
		}
	}
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, ErrUnreadable
	}
	// Errors tell these, and a parameter's value where the server refuses it.
	for _, host := range append([]string{cfg.Host}, hosts(cfg)...) {
		if !hostPattern.MatchString(host) || strings.Contains(host[min(1, len(host)):], "@") ||
			mayHoldPassword(strings.ReplaceAll(host, ":", "")) {
			return nil, ErrUnreadable
		}
	}
	if mayHoldPassword(cfg.User) || mayHoldPassword(cfg.Database) {
		return nil, ErrUnreadable
	}
	for name, value := range cfg.RuntimeParams {
		if !parameterPattern.MatchString(name) || passwordNames.MatchString(name) || urlPattern.MatchString(value) {
			return nil, ErrUnreadable
		}
	}
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	return cfg, nil
}

// ParsePool is the same for a pool, which knows parameters of its own.
func ParsePool(databaseURL string) (*pgxpool.Config, error) {
	if _, err := Parse(databaseURL); err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, ErrUnreadable
	}
	cfg.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	return cfg, nil
}
