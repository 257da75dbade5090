package track

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
)

func TestProcessMatches(t *testing.T) {
	tests := []struct {
		name string
		cfg  conf.TrackProcess
		comm string
		line string // the command line, words with blanks between
		want bool
	}{
		{"name", conf.TrackProcess{Process: []string{"nginx"}}, "nginx", "/usr/sbin/nginx -g x", true},
		{"another name", conf.TrackProcess{Process: []string{"nginx"}}, "nginx2", "nginx", false},
		{"a thread of the kernel", conf.TrackProcess{Process: []string{"kthreadd"}}, "kthreadd", "", true},
		{"command line", conf.TrackProcess{Process: []string{"/bin/a"}, FullCommand: true}, "x", "/bin/a any thing", true},
		{"not by its name", conf.TrackProcess{Process: []string{"a"}, FullCommand: true}, "a", "/bin/a", false},
		{"no command line", conf.TrackProcess{Process: []string{"a"}, FullCommand: true}, "a", "", false},
		{"exact", conf.TrackProcess{Process: []string{"a", "b", "c"}, FullCommand: true, Match: conf.MatchExact}, "x", "a b c", true},
		{"exact, one more", conf.TrackProcess{Process: []string{"a", "b"}, FullCommand: true, Match: conf.MatchExact}, "x", "a b c", false},
		{"exact, none wanted", conf.TrackProcess{Process: []string{"a"}, FullCommand: true, Match: conf.MatchExact}, "x", "a b", false},
		{"partial", conf.TrackProcess{Process: []string{"a", "b"}, FullCommand: true, Match: conf.MatchPartial}, "x", "a b c", true},
		{"partial, too few", conf.TrackProcess{Process: []string{"a", "b", "c"}, FullCommand: true, Match: conf.MatchPartial}, "x", "a b", false},
		{"initial", conf.TrackProcess{Process: []string{"a", "b", "-Dda"}, FullCommand: true, Match: conf.MatchInitial}, "x", "a b -Ddata", true},
		{"initial, another first", conf.TrackProcess{Process: []string{"a", "b", "-D"}, FullCommand: true, Match: conf.MatchInitial}, "x", "a c -Ddata", false},
		{"initial, one more", conf.TrackProcess{Process: []string{"a", "b"}, FullCommand: true, Match: conf.MatchInitial}, "x", "a b c", false},
		{"initial without parameters", conf.TrackProcess{Process: []string{"a"}, FullCommand: true, Match: conf.MatchInitial}, "x", "a", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := instances{cfg: tt.cfg}
			if got := in.matches(tt.comm, strings.Fields(tt.line)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// procs is a host with processes that have only a name.
type procs struct {
	mu     sync.Mutex
	names  map[int]string
	fail   error
	blind  error // of List
	events chan func(ProcessHandler)
}

func (p *procs) host() ProcessHost {
	return ProcessHost{
		Follow: func(ctx context.Context, h ProcessHandler) error {
			p.mu.Lock()
			err := p.fail
			p.mu.Unlock()
			if err != nil {
				return err
			}
			h.Resync()
			for {
				select {
				case <-ctx.Done():
					return nil
				case e := <-p.events:
					if e == nil {
						return errors.New("broken")
					}
					e(h)
				}
			}
		},
		List: func() ([]int, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return slices.Collect(maps.Keys(p.names)), p.blind
		},
		Read: func(pid int) (string, []string, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.names[pid] == "" {
				return "", nil, errors.New("gone")
			}
			return p.names[pid], []string{p.names[pid]}, nil
		},
	}
}

func (p *procs) set(pid int, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names[pid] = name
	if name == "" {
		delete(p.names, pid)
	}
}

func TestProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &procs{names: map[int]string{1: "init", 10: "db"}, events: make(chan func(ProcessHandler))}
		var told atomic.Int32
		c := NewProcesses(slog.New(slog.DiscardHandler), p.host(), func() { told.Add(1) })
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Run(ctx)
		}()
		want := func(name, what string) {
			t.Helper()
			synctest.Wait()
			state, reason := c.State(name)
			if got := strings.TrimSpace(fmt.Sprint(state, " ", reason)); got != what {
				t.Errorf("%s: got %q, want %q", name, got, what)
			}
		}
		news := func(n int) {
			t.Helper()
			synctest.Wait()
			if got := told.Swap(0); int(got) != n {
				t.Errorf("told %d times, want %d", got, n)
			}
		}
		synctest.Wait()
		news(0) // nothing to track: the kernel isn't asked
		one := conf.TrackProcess{Name: "one", Process: []string{"db"}, Quorum: 1, QuorumMax: -1, ForkDelay: 2 * time.Second, TerminateDelay: time.Second}
		few := conf.TrackProcess{Name: "few", Process: []string{"db"}, Quorum: 1, QuorumMax: 2}
		none := conf.TrackProcess{Name: "none", Process: []string{"rival"}}
		c.Replace([]conf.TrackProcess{one, few, none})
		want("one", "OK 1 of db run, 1 or more wanted")
		want("few", "OK 1 of db run, 1 to 2 wanted")
		want("none", "OK 0 of rival run, none wanted")
		want("other", "UNABLE not defined")
		news(1)

		event := func(e func(ProcessHandler)) { p.events <- e }
		event(func(h ProcessHandler) { h.Forked(10, 11) })
		event(func(h ProcessHandler) { h.Forked(10, 12) })
		want("few", "FAILED 3 of db run, 1 to 2 wanted")
		p.set(12, "rival")
		event(func(h ProcessHandler) { h.Execed(12) })
		want("few", "OK 2 of db run, 1 to 2 wanted")
		want("none", "FAILED 1 of rival run, none wanted")
		event(func(h ProcessHandler) { h.Forked(1, 13) })
		event(func(h ProcessHandler) { h.Exited(12) })
		want("none", "OK 0 of rival run, none wanted")
		news(3)

		// A short absence within terminate_delay is none.
		event(func(h ProcessHandler) { h.Exited(10); h.Exited(11) })
		want("few", "FAILED 0 of db run, 1 to 2 wanted")
		want("one", "OK 0 of db run, 1 or more wanted, within its delay")
		time.Sleep(900 * time.Millisecond)
		p.set(20, "db")
		event(func(h ProcessHandler) { h.Execed(20) })
		want("one", "OK 1 of db run, 1 or more wanted")
		time.Sleep(time.Second)
		want("one", "OK 1 of db run, 1 or more wanted")
		event(func(h ProcessHandler) { h.Exited(20) })
		time.Sleep(time.Second)
		want("one", "FAILED 0 of db run, 1 or more wanted")
		event(func(h ProcessHandler) { h.Execed(20) })
		time.Sleep(1900 * time.Millisecond)
		want("one", "FAILED 1 of db run, 1 or more wanted, within its delay")
		time.Sleep(100 * time.Millisecond)
		want("one", "OK 1 of db run, 1 or more wanted")

		// News were lost: /proc has the truth.
		p.set(20, "")
		p.set(10, "")
		event(func(h ProcessHandler) { h.Resync() })
		want("few", "FAILED 0 of db run, 1 to 2 wanted")
		want("one", "OK 0 of db run, 1 or more wanted, within its delay")
		time.Sleep(time.Second)
		want("one", "FAILED 0 of db run, 1 or more wanted")

		// A reload: what did not change keeps its state, what is new is looked for at once.
		p.set(30, "web")
		one.Weight = 10
		c.Replace([]conf.TrackProcess{one, {Name: "web", Process: []string{"web"}, Quorum: 1, QuorumMax: 1, ForkDelay: time.Hour}})
		want("one", "FAILED 0 of db run, 1 or more wanted")
		want("web", "OK 1 of web run, 1 wanted")
		want("few", "UNABLE not defined")

		// Whoever cannot see counts nothing as well, and tries again.
		p.mu.Lock()
		p.fail = errors.New("no connector here")
		p.mu.Unlock()
		told.Store(0)
		p.events <- nil
		want("web", "UNABLE broken")
		news(1)
		time.Sleep(followAgain)
		want("web", "UNABLE no connector here")
		p.mu.Lock()
		p.fail = nil
		p.mu.Unlock()
		time.Sleep(followAgain)
		want("web", "OK 1 of web run, 1 wanted")

		// So does who follows but cannot look: what was lost meanwhile is found when that works again.
		blind := func(err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.blind = err
		}
		blind(errors.New("too many open files"))
		event(func(h ProcessHandler) { h.Resync() })
		want("web", "UNABLE too many open files")
		p.set(30, "")
		told.Store(0)
		time.Sleep(followAgain)
		want("web", "UNABLE too many open files")
		news(0)
		blind(nil)
		time.Sleep(followAgain)
		want("web", "FAILED 0 of web run, 1 wanted")

		c.Replace(nil)
		synctest.Wait()
		select {
		case p.events <- nil:
			t.Error("processes are followed for nobody")
		default:
		}
		stop()
		<-done
	})
}
