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
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/awa-pg/awa/cmd/awa/ui"
)

// uiUsers knows who asks for a page: by a password, by the header of a proxy, or nobody in particular.
type uiUsers struct {
	passwords  map[string][]byte // hashes by names; nil without a file
	header     string            // of the proxy; "" for none
	roles      map[string]string // of the database, by names, and "*" for all others; nil for the login's own
	groups     string            // the header of the proxy that names them; "" for none
	groupRoles []groupRole       // of the database, of the members of groups
	mayChange  bool
	log        *slog.Logger
	waiting    chan struct{} // holds those whose password is to be compared, or was wrong
	comparing  chan struct{} // holds few comparisons at a time: each takes some time
	failing    time.Duration // how long a wrong password takes at least
	key        []byte        // of what is known
	mutex      sync.Mutex
	known      map[string][]byte // names to what proves the password that was right for them
	comparable []byte            // a hash for names that there are not, which takes as long as the slowest of the others
}

// mostWaiting is how many passwords wait to be compared, or were wrong a moment ago.
const mostWaiting = 32

// userKey is the key of the context that holds a ui.User.
type userKey struct{}

func newUIUsers(f uiFlags, log *slog.Logger) (*uiUsers, error) {
	u := &uiUsers{
		header: f.userHeader, roles: f.roles, groups: f.groupHeader,
		groupRoles: f.groupRoles, mayChange: f.allowChanges, log: log,
		waiting: make(chan struct{}, mostWaiting), comparing: make(chan struct{}, 2), failing: time.Second,
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
		if u.comparable, err = bcrypt.GenerateFromPassword([]byte("nobody's"), highestCost(u.passwords)); err != nil {
			return nil, err
		}
		began := time.Now()
		_ = bcrypt.CompareHashAndPassword(u.comparable, nil)
		u.failing += 4 * time.Since(began) // whether or not there is a user of that name, and whatever the user's hash costs
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

// highestCost returns that of the hash that takes longest to compare.
func highestCost(passwords map[string][]byte) (highest int) {
	for _, hash := range passwords {
		cost, _ := bcrypt.Cost(hash) // readPasswords has looked
		highest = max(highest, cost)
	}
	return highest
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
		if name, password, isSaid = r.BasicAuth(); isSaid {
			var isBusy bool
			if isSaid, isBusy = u.isRight(r.Context(), name, password); isBusy {
				w.Header().Set("Retry-After", "10")
				http.Error(w, "Too many ask to enter now: try again.", http.StatusServiceUnavailable)
				return nil, false
			}
			if !isSaid {
				u.logWrong(r, name)
			}
		}
		if !isSaid {
			w.Header().Set("WWW-Authenticate", `Basic realm="Awa", charset="UTF-8"`)
			http.Error(w, "Say who you are.", http.StatusUnauthorized)
			return nil, false
		}
	}
	user := ui.User{Name: name, MayChange: u.mayChange}
	if u.roles != nil || u.groupRoles != nil {
		role, has := u.roleOf(name, u.groupsOf(r))
		if !has {
			http.Error(w, "You have no role in the database: see --role.", http.StatusForbidden)
			return nil, false
		}
		user.Role = role
	}
	return r.WithContext(context.WithValue(r.Context(), userKey{}, user)), true
}

// groupsOf returns the groups that the proxy says, which enter believes. A second header of the name may be that of a
// browser, to which the proxy has added its own: then there are none.
func (u *uiUsers) groupsOf(r *http.Request) (groups []string) {
	if headers := r.Header.Values(u.groups); u.groups != "" && len(headers) == 1 {
		for group := range strings.SplitSeq(headers[0], ",") {
			if group = strings.TrimSpace(group); group != "" {
				groups = append(groups, group)
			}
		}
	}
	return groups
}

// roleOf returns the database role of a user: by the name, or else by the first group that has one, or else that of all
// others. A name that differs from one that has a role in upper and lower case alone has none, and not that of all
// others: it may be the same user, or another one. So it is with groups.
func (u *uiUsers) roleOf(name string, groups []string) (role string, has bool) {
	if role, has = u.roles[name]; has && name != "*" {
		return role, true
	}
	for user := range u.roles {
		if user != name && strings.EqualFold(user, name) {
			return "", false
		}
	}
	for _, mapped := range u.groupRoles {
		if slices.Contains(groups, mapped.group) {
			return mapped.role, true
		}
	}
	for _, mapped := range u.groupRoles {
		if slices.ContainsFunc(groups, func(group string) bool { return strings.EqualFold(group, mapped.group) }) {
			return "", false
		}
	}
	role, has = u.roles["*"]
	return role, has
}

// logWrong logs that somebody has said a wrong password. A name that is none of a user's is left out: it may be a
// password in the wrong place.
func (u *uiUsers) logWrong(r *http.Request, name string) {
	if _, isUser := u.passwords[name]; !isUser {
		name = "unknown"
	}
	u.log.WarnContext(r.Context(), "a wrong password", "user", name, "from", r.RemoteAddr)
}

// isRight says whether a password is a user's. One that was right is known again at once. A wrong one takes some time,
// which is the same whether there is such a user or not. It is busy where too many ask.
func (u *uiUsers) isRight(ctx context.Context, name, password string) (isRight, isBusy bool) {
	mac := hmac.New(sha256.New, u.key)
	fmt.Fprintf(mac, "%d:%s%s", len(name), name, password)
	proof := mac.Sum(nil)
	u.mutex.Lock()
	isKnown := hmac.Equal(proof, u.known[name])
	u.mutex.Unlock()
	if isKnown {
		return true, false
	}
	select {
	case u.waiting <- struct{}{}:
		defer func() { <-u.waiting }()
	default:
		return false, true
	}
	if u.compare(ctx, name, password) {
		u.mutex.Lock()
		u.known[name] = proof
		u.mutex.Unlock()
		return true, false
	}
	return false, false
}

// compare says whether a password is a user's, and takes its time where it is not.
func (u *uiUsers) compare(ctx context.Context, name, password string) bool {
	select {
	case u.comparing <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	failed := time.NewTimer(u.failing)
	defer failed.Stop()
	hash, isUser := u.passwords[name]
	if !isUser {
		hash = u.comparable
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	<-u.comparing // what follows costs nothing
	if err == nil && isUser {
		return true
	}
	select {
	case <-failed.C:
	case <-ctx.Done():
	}
	return false
}

// userOf returns who asks, as enter found.
func userOf(r *http.Request) (ui.User, bool) {
	user, ok := r.Context().Value(userKey{}).(ui.User)
	return user, ok
}
