package promote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// fakeSQLState is an error of the server.
type fakeSQLState string

func (s fakeSQLState) Error() string    { return "server error " + string(s) }
func (s fakeSQLState) SQLState() string { return string(s) }

func TestDialErrors(t *testing.T) {
	errno := func(e syscall.Errno) error {
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", e)}
	}
	tests := []struct {
		name string
		err  error
		want Reach
	}{
		{"refused", errno(syscall.ECONNREFUSED), Unreachable},
		{"no route", errno(syscall.EHOSTUNREACH), Unreachable},
		{"no network", errno(syscall.ENETUNREACH), Unreachable},
		{"silence", &net.OpError{Op: "dial", Err: context.DeadlineExceeded}, Unreachable},
		{"silence until the kernel gives up", errno(syscall.ETIMEDOUT), Unreachable},
		{"reset", errno(syscall.ECONNRESET), Undecided},
		{"not allowed", errno(syscall.EPERM), CantTell},
		{"no port left", errno(syscall.EADDRNOTAVAIL), CantTell},
		{"no descriptor left", errno(syscall.EMFILE), CantTell},
		{"cancelled", context.Canceled, CantTell},
		{"anything else", errors.New("x"), CantTell},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, why := dialed(tt.err); got != tt.want || why == "" {
				t.Errorf("got %q (%s), want %q", got, why, tt.want)
			}
		})
	}
}

func TestAskErrors(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want Reach
	}{
		{"starts or stops", fakeSQLState("57P03"), Undecided},
		{"stops", fakeSQLState("57P01"), Undecided},
		{"crashed", fakeSQLState("57P02"), Undecided},
		{"password", fakeSQLState("28P01"), CantTell},
		{"pg_hba.conf", fakeSQLState("28000"), CantTell},
		{"too many clients", fakeSQLState("53300"), CantTell},
		{"silent", context.DeadlineExceeded, Undecided},
		{"hung up", io.EOF, Undecided},
		{"hung up in the middle", fmt.Errorf("receive: %w", io.ErrUnexpectedEOF), Undecided},
		{"reset", syscall.ECONNRESET, Undecided},
		{"gone meanwhile", syscall.ECONNREFUSED, Unreachable},
		{"cancelled", context.Canceled, CantTell},
		{"not PostgreSQL", errors.New("unexpected message"), CantTell},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, why := asked(tt.err); got != tt.want || why == "" {
				t.Errorf("got %q (%s), want %q", got, why, tt.want)
			}
		})
	}
}

func TestLinksAreCombined(t *testing.T) {
	tests := []struct {
		name  string
		links []Reach
		want  Reach
	}{
		{"one link", []Reach{Standby}, Standby},
		{"one answers", []Reach{Unreachable, Primary}, Primary},
		{"the worse answer counts", []Reach{Standby, Primary}, Primary},
		{"one can't tell", []Reach{Unreachable, CantTell}, CantTell},
		{"one starts", []Reach{CantTell, Undecided, Unreachable}, Undecided},
		{"all off", []Reach{Unreachable, Unreachable}, Unreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var all []Answer
			for _, r := range tt.links {
				all = append(all, Answer{Reach: r})
			}
			if got := combine(all).Reach; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
