package core

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// HoldName is a name in synchronous_standby_names that no walreceiver uses: whoever waits for it waits for ever.
const HoldName = "pgnotify_hold"

// SSN is a value of synchronous_standby_names: a commit waits until every one of Names has flushed it, and with Hold for ever.
// The zero value is the empty setting: a commit waits for nobody.
type SSN struct {
	Names []string // newest first: each change moves every name that was there before
	Hold  bool
}

// String is the setting: "", "FIRST 2 (n3, n2)", "FIRST 1 (pgnotify_hold)".
func (s SSN) String() string {
	names := make([]string, 0, len(s.Names)+1)
	for _, n := range s.Names {
		names = append(names, quote(n))
	}
	if s.Hold {
		names = append(names, HoldName)
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("FIRST %d (%s)", len(names), strings.Join(names, ", "))
}

// IsHold reports whether s is the plain hold.
func (s SSN) IsHold() bool { return s.Hold && len(s.Names) == 0 }

// Covers reports whether under s no commit is acknowledged that one of names has not flushed.
func (s SSN) Covers(names []string) bool {
	if s.Hold {
		return true
	}
	for _, n := range names {
		if !slices.Contains(s.Names, n) {
			return false
		}
	}
	return true
}

// quote writes a name as an identifier of the setting's grammar; plain ones stay as they are.
func quote(n string) string {
	for k, r := range n {
		if r != '_' && (r < 'a' || r > 'z') && (k == 0 || r < '0' || r > '9') {
			return `"` + strings.ReplaceAll(n, `"`, `""`) + `"`
		}
	}
	return n
}

// ParseSSN reads what String wrote. A value of another form, which somebody else wrote, is not ok: nothing is known of it.
func ParseSSN(text string) (s SSN, ok bool) {
	text = strings.TrimSpace(text)
	if text == "" {
		return SSN{}, true
	}
	head, rest, found := strings.Cut(text, "(")
	f := strings.Fields(head)
	if !found || len(f) != 2 || !strings.EqualFold(f[0], "first") || !strings.HasSuffix(rest, ")") {
		return SSN{}, false
	}
	rest = strings.TrimSuffix(rest, ")")
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		var name string
		if rest[0] == '"' {
			end := 1
			for ; ; end++ {
				if end >= len(rest) {
					return SSN{}, false
				}
				if rest[end] != '"' {
					continue
				}
				if end+1 < len(rest) && rest[end+1] == '"' {
					end++
					continue
				}
				break
			}
			name, rest = strings.ReplaceAll(rest[1:end], `""`, `"`), strings.TrimSpace(rest[end+1:])
			if rest, ok = strings.CutPrefix(rest, ","); !ok && rest != "" {
				return SSN{}, false
			}
		} else {
			name, rest, _ = strings.Cut(rest, ",")
			if name = strings.TrimSpace(name); name == "" || strings.ContainsAny(name, ` "*()`) {
				return SSN{}, false
			}
		}
		if name == HoldName {
			s.Hold = true
		} else {
			s.Names = append(s.Names, name)
		}
	}
	n := len(s.Names)
	if s.Hold {
		n++
	}
	if n == 0 || f[1] != strconv.Itoa(n) {
		return SSN{}, false
	}
	return s, true
}
