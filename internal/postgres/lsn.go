package postgres

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log in bytes; zero means unknown. Its text form is the one of pg_lsn, "0/3000060".
type LSN uint64

// Timeline numbers a history of the cluster, from 1; zero means unknown.
type Timeline = uint32

// ParseLSN reads the text form of pg_lsn: two hexadecimal numbers of at most 8 digits with a slash between.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if ok {
		h, errh := strconv.ParseUint(hi, 16, 32)
		l, errl := strconv.ParseUint(lo, 16, 32)
		if errh == nil && errl == nil && len(hi) <= 8 && len(lo) <= 8 {
			return LSN(h<<32 | l), nil
		}
	}
	return 0, fmt.Errorf("parse LSN %q: want two hexadecimal numbers as in 0/3000060", s)
}

// String prints the position as PostgreSQL does.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText makes an LSN a string in JSON.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// Position is the end of the WAL that a server holds.
type Position struct {
	Timeline Timeline
	LSN      LSN
}

// Compare orders positions by timeline, then by LSN: -1, 0 or 1. It says who holds more only for servers whose histories have not diverged.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Timeline, q.Timeline), cmp.Compare(p.LSN, q.LSN))
}

// String prints "timeline 2 at 0/3000060".
func (p Position) String() string { return fmt.Sprintf("timeline %d at %s", p.Timeline, p.LSN) }
