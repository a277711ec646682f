package dburl

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, u := range []string{
		"postgres://localhost/app", "postgres://u@localhost/app",
		"postgresql://u:p%40ss%2Fw%23d@h1:5432,h2:5433/app?sslmode=disable", "postgres:///app?host=/tmp&user=u",
		"postgres://[::1]:5432/app",
		"host=localhost user=u password='s p@c#e' dbname=app", "", "postgres://u:p?ss@h/app?search_path=x&a.b=c",
	} {
		if strings.Contains(u, "p?ss") {
			continue // refused, below: the password could end in front of the ?
		}
		cfg, err := Parse(u)
		require.NoError(t, err, u)
		require.NotNil(t, cfg)
	}
	cfg, err := Parse("postgres://u:p%40ss%2Fw%23d@h/app")
	require.NoError(t, err)
	assert.Equal(t, "p@ss/w#d", cfg.Password)

	// Whatever is wrong, or can be meant in two ways
	const secret = "s3cr3t"
	for _, u := range []string{
		"postgres://u:%zz" + secret + "@h/db", "postgres://u:a@" + secret + "@h/db", "postgres://u:a/" + secret + "@h/db",
		"postgres://u:a#" + secret + "@h/db", "postgres://u:a?" + secret + "@h/db",
		"postgres://u:1@h#" + secret + "@h/db", "postgres://u:p@ss/" + secret + "@h/db",
		"postgres://u:p@h/db?x=" + secret + "@h", "postgres://u:a:" + secret + "@h:port/db",
		"postgres://u:" + secret + " x@h/d b\x7f",
		"postgres:/u:" + secret + "@h/db", "postgres:u:" + secret + "@h/db", "u:" + secret + "@h/db",
		"mysql://u:" + secret + "=x@h/db", "postgress://u:" + secret + "@h/db", "host=h password = '" + secret,
		"password='a" + secret + " x",
		"host=h password=a " + secret, "host=h 'password'=" + secret + "x port=p", "postgres://" + secret + ":12x/db",
		"postgres://u:p@h/db?" + secret + "[=x", "PASSWORD=" + secret + " host=h", "host=h pwd=" + secret,
		"postgres://u@h/db?Passwort=" + secret,
	} {
		_, err := Parse(u)
		require.ErrorIs(t, err, ErrUnreadable, u)
		assert.NotContains(t, err.Error(), secret)
	}
}

// Passwords with all that means something in a URL, and that somebody has forgotten to encode: errors tell the user,
// the database, the hosts and the parameters. None of these holds a piece of the password that is not hidden.
func TestPasswordsAtRandom(t *testing.T) {
	const secret = "s3cr3t"
	pieces := []string{secret, secret, secret, "x", "1", " ", "\t", "@", "/", "?", "#", "&", "&&", "=", ":", ";", ",", "%",
		"%40", "%2F", "%3D", "'", `"`, `\`, "+", ".", "-", "_", "[", "]", "{", "é", "\x00", "//", "://", "@h/", "/db?",
		"abc=", "password="}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	read := 0
	for range 2_000 {
		password := ""
		for range 1 + random.IntN(7) {
			password += pieces[random.IntN(len(pieces))]
		}
		for _, form := range []string{
			"postgres://u:$@h/db", "postgres://u:$@h:5432/db?sslmode=disable", "postgresql://u:$@/db", "postgres://:$@h",
			"postgres://h/db?user=u&password=$", "postgres://h/db?password=$&user=u", "host=h user=u password=$ dbname=db",
			"password=$", "password='$' host=h", "host=h password = $", "PASSWORD=$", "postgres:///db?host=/tmp&password=$",
		} {
			url := strings.Replace(form, "$", password, 1)
			cfg, err := Parse(url)
			if err != nil {
				require.Equal(t, ErrUnreadable, err)
				continue
			}
			read++
			shown := append(hosts(cfg), cfg.Host, cfg.User, cfg.Database)
			for name := range cfg.RuntimeParams {
				shown = append(shown, name) // the server does not tell the value of one that it does not know
				require.NotContains(t, strings.ToLower(name), "password", "%q", url)
			}
			hidden := NotPlain(url)
			for _, text := range shown {
				for _, h := range hidden {
					text = strings.ReplaceAll(text, h, "")
				}
				require.NotContains(t, text, secret, "%q", url)
			}
		}
	}
	require.NotZero(t, read)
}
