package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"github.com/awa-pg/awa/cmd/awa/ui"
)

// uiUsers knows who asks for a page: by a password, by the header of a proxy, or nobody in particular.
type uiUsers struct {
	passwords  map[string][]byte // hashes by names; nil without a file
	header     string            // of the proxy; "" for none
	roles      map[string]string // of the database, by names, and "*" for all others; nil for the login's own
	mayChange  bool
	comparing  chan struct{} // holds few comparisons at a time: each takes some time
	key        []byte        // of what is known
	mutex      sync.Mutex
	known      map[string][]byte // names to what proves the password that was right for them
	comparable []byte            // a hash for names that there are not, so that they take as long
}

// userKey is the key of the context that holds a ui.User.
type userKey struct{}

func newUIUsers(f uiFlags) (*uiUsers, error) {
	u := &uiUsers{
		header: f.userHeader, roles: f.roles, mayChange: f.allowChanges, comparing: make(chan struct{}, 2),
		known: map[string][]byte{}, key: make([]byte, 32),
	}
	rand.Read(u.key)
	if f.passwordFile != "" {
		text, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return nil, errors.New("the password file can't be read") // the error shows the argument
		}
		if u.passwords, err = readPasswords(text); err != nil {
			return nil, err
		}
		if u.comparable, err = bcrypt.GenerateFromPassword([]byte("nobody's"), bcrypt.DefaultCost); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// readPasswords reads a file as htpasswd -B writes it: name:hash, one a line.
func readPasswords(text []byte) (map[string][]byte, error) {
	passwords := map[string][]byte{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		cost, err := bcrypt.Cost([]byte(hash))
		if name == "" || err != nil || cost > 15 {
			return nil, fmt.Errorf("line %d of the password file is not a name and a hash of bcrypt: see htpasswd -B", n)
		}
		passwords[name] = []byte(hash)
	}
	if len(passwords) == 0 {
		return nil, errors.New("the password file has no user")
	}
	return passwords, lines.Err()
}

// areAsked says whether users have to say who they are.
func (u *uiUsers) areAsked() bool { return u.passwords != nil || u.header != "" }

// enter returns the request of a user who may enter, or answers those who may not.
func (u *uiUsers) enter(w http.ResponseWriter, r *http.Request, isProxy bool) (*http.Request, bool) {
	var name string
	switch {
	case u.header != "":
		names := r.Header.Values(u.header)
		if !isProxy || len(names) != 1 || names[0] == "" {
			http.Error(w, "The pages are shown by a proxy that says who asks.", http.StatusForbidden)
			return nil, false
		}
		name = names[0]
	case u.passwords != nil:
		var password string
		var isSaid bool
		if name, password, isSaid = r.BasicAuth(); !isSaid || !u.isRight(r.Context(), name, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="Awa", charset="UTF-8"`)
			http.Error(w, "Say who you are.", http.StatusUnauthorized)
			return nil, false
		}
	}
	user := ui.User{Name: name, MayChange: u.mayChange}
	if u.roles != nil {
		role, has := u.roles[name]
		if !has || name == "*" {
			role, has = u.roles["*"]
		}
		if !has {
			http.Error(w, "You have no role in the database: see --role.", http.StatusForbidden)
			return nil, false
		}
		user.Role = role
	}
	return r.WithContext(context.WithValue(r.Context(), userKey{}, user)), true
}

// isRight says whether a password is a user's. One that was right is known again at once; others take some time.
func (u *uiUsers) isRight(ctx context.Context, name, password string) bool {
	mac := hmac.New(sha256.New, u.key)
	fmt.Fprintf(mac, "%d:%s%s", len(name), name, password)
	proof := mac.Sum(nil)
	u.mutex.Lock()
	isKnown := hmac.Equal(proof, u.known[name])
	u.mutex.Unlock()
	if isKnown {
		return true
	}
	select {
	case u.comparing <- struct{}{}:
		defer func() { <-u.comparing }()
	case <-ctx.Done():
		return false
	}
	hash, isUser := u.passwords[name]
	if !isUser {
		hash = u.comparable
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !isUser {
		return false
	}
	u.mutex.Lock()
	u.known[name] = proof
	u.mutex.Unlock()
	return true
}

// userOf returns who asks, as enter found.
func userOf(r *http.Request) (ui.User, bool) {
	user, ok := r.Context().Value(userKey{}).(ui.User)
	return user, ok
}
