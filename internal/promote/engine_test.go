package promote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgvrrp/internal/postgres"
)

func TestMasterPromotesOnceSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		start := time.Now()
		o := b.hook(t.Context(), Master)
		wantResult(t, o, Done, "")
		wantDid(t, b, "promote")
		if took := time.Since(start); took < 50*time.Millisecond || took > 80*time.Millisecond {
			t.Errorf("took %s, want the settle time of 50 ms and hardly more", took)
		}
		if got, want := strings.Join(b.detached, "; "), "behind --instance VI_PG after-promote"; got != want {
			t.Errorf("behind the hook: got %q, want %q", got, want)
		}
		if on, err := b.Store.Promoting(); on || err != nil {
			t.Errorf("promotion still marked: %t, %v", on, err)
		}
		if got, want := b.server.String(), "position timeline 2 at 0/64\nprimary true\nrunning true\nupstream 10.0.0.100"; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestDeadPeersCostOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for _, addr := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.100"} {
			b.network.set(addr, fakeHost{dead: true})
		}
		start := time.Now()
		wantResult(t, b.hook(t.Context(), Master), Done, "")
		if took := time.Since(start); took > 180*time.Millisecond {
			t.Errorf("took %s, want one connection attempt of 150 ms", took)
		}
	})
}

func TestMasterIsOvertaken(t *testing.T) {
	tests := []struct {
		name  string
		after time.Duration
		slow  time.Duration // of a peer's answer
	}{
		{"while it settles", 20 * time.Millisecond, 0},
		{"while it asks", 150 * time.Millisecond, 250 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				if tt.slow > 0 {
					h := remote(true, at(1, 1))
					h.delay = tt.slow
					b.network.set("10.0.0.2", h)
				}
				first := make(chan Outcome, 1)
				go func() { first <- b.hook(t.Context(), Master) }()
				time.Sleep(tt.after)
				second := b.hook(t.Context(), Backup)
				o := <-first
				wantResult(t, o, Overtaken, "BACKUP came at")
				if strings.Contains(b.server.did(), "promote") {
					t.Errorf("an overtaken MASTER promoted: %s", b.server.did())
				}
				if second.Err != nil {
					t.Errorf("BACKUP: %v", second.Err)
				}
			})
		})
	}
}

// A hook that waits for the lock while the state changes must not act when it gets it.
func TestQueuedMasterIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		unlock, err := b.Store.Lock(t.Context(), "the test", nil)
		if err != nil {
			t.Fatal(err)
		}
		master, backup := make(chan Outcome, 1), make(chan Outcome, 1)
		go func() { master <- b.hook(t.Context(), Master) }()
		time.Sleep(time.Second)
		go func() { backup <- b.hook(t.Context(), Backup) }()
		time.Sleep(time.Second)
		unlock()
		wantResult(t, <-master, Overtaken, "BACKUP came at")
		wantResult(t, <-backup, Done, "")
		wantDid(t, b, "")
	})
}

func TestVrrpdHasTheLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.Vrrpd = func(context.Context, Event) error { return errors.New("vrrpd has moved on") }
		wantResult(t, b.hook(t.Context(), Master), Refused, "vrrpd has moved on")
		wantDid(t, b, "")
		if on, err := b.Store.Promoting(); on || err != nil {
			t.Errorf("promotion still marked: %t, %v", on, err)
		}
	})
}

func TestMasterWaitsForTheOldPrimaryToGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.network.set("10.0.0.2", remote(false, at(1, 100)))
		go func() {
			time.Sleep(2 * time.Second)
			b.network.set("10.0.0.2", fakeHost{err: fakeSQLState("57P03")})
			time.Sleep(time.Second)
			b.network.set("10.0.0.2", fakeHost{refused: true})
		}()
		start := time.Now()
		wantResult(t, b.hook(t.Context(), Master), Done, "")
		if took := time.Since(start); took < 3*time.Second || took > 3200*time.Millisecond {
			t.Errorf("took %s, want just over the 3 s that the old primary took", took)
		}
	})
}

func TestMasterRefuses(t *testing.T) {
	tests := []struct {
		name   string
		host   fakeHost
		reason string
		least  time.Duration
		most   time.Duration
	}{
		{"another primary stays", remote(false, at(1, 100)), "n2 at 10.0.0.2 answers as a primary", 10 * time.Second, 10200 * time.Millisecond},
		{"a server that never says anything", fakeHost{delay: time.Hour}, "can't tell yet whether n2", 10 * time.Second, 11500*time.Millisecond + 500*time.Millisecond /* the two last questions */},
		{"not let in", fakeHost{err: fakeSQLState("28000")}, "can't tell whether n2", 0, 100 * time.Millisecond},
		{"full", fakeHost{err: fakeSQLState("53300")}, "can't tell whether n2", 0, 100 * time.Millisecond},
		{"no position", remote(true, postgres.Position{}), "its answer has no position", 0, 100 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.network.set("10.0.0.2", tt.host)
				start := time.Now()
				wantResult(t, b.hook(t.Context(), Master), Refused, tt.reason)
				if took := time.Since(start); took < tt.least || took > tt.most {
					t.Errorf("took %s, want %s to %s", took, tt.least, tt.most)
				}
				wantDid(t, b, "")
			})
		})
	}
}

// A peer that is promoted while we settle must be seen, though it answered as a standby at first.
func TestReachablePeersAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.network.set("10.0.0.2", remote(true, at(1, 100)))
		go func() {
			time.Sleep(25 * time.Millisecond)
			b.network.set("10.0.0.2", remote(false, at(2, 100)))
		}()
		wantResult(t, b.hook(t.Context(), Master), Refused, "n2 at 10.0.0.2 answers as a primary")
		wantDid(t, b, "")
	})
}

func TestMasterCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.network.set("10.0.0.3", remote(true, at(1, 200)))
		b.server.on["upstream 10.0.0.3"] = func() {
			go func() {
				time.Sleep(30 * time.Millisecond)
				b.server.mu.Lock()
				b.server.position = at(1, 200)
				b.server.mu.Unlock()
			}()
		}
		wantResult(t, b.hook(t.Context(), Master), Done, "")
		wantDid(t, b, "upstream 10.0.0.3, promote")
	})
}

// A standby that has just been started names how far it has replayed what it has, which may be more than ours in the end.
func TestMasterWaitsForAPeerThatReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.network.set("10.0.0.2", remote(true, at(1, 10)))
		go func() {
			for n := range 20 {
				time.Sleep(30 * time.Millisecond)
				b.network.set("10.0.0.2", remote(true, at(1, postgres.LSN(20+10*n))))
			}
		}()
		b.server.on["upstream 10.0.0.2"] = func() {
			b.server.mu.Lock()
			defer b.server.mu.Unlock()
			b.server.position = at(1, 210)
		}
		wantResult(t, b.hook(t.Context(), Master), Done, "")
		wantDid(t, b, "upstream 10.0.0.2, promote")
		if b.server.position.LSN != 210 {
			t.Errorf("promoted at %s, want all that the other one has", b.server.position)
		}
	})
}

// A MASTER that was refused is tried again behind the hook, for as long as it is the newest state: keepalived never asks twice.
func TestRetry(t *testing.T) {
	refused := func(t *testing.T) *bench {
		t.Helper()
		b := newBench(t)
		b.network.set("10.0.0.2", remote(false, at(1, 50)))
		wantResult(t, b.hook(t.Context(), Master), Refused, "answers as a primary")
		if got, want := strings.Join(b.detached, "; "), "behind --instance VI_PG retry"; got != want {
			t.Errorf("behind the hook: got %q, want %q", got, want)
		}
		return b
	}
	t.Run("until the other primary has gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := refused(t)
			go func() {
				time.Sleep(10 * time.Minute)
				b.network.set("10.0.0.2", fakeHost{refused: true})
			}()
			wantResult(t, b.Retry(t.Context(), "VI_PG"), Done, "")
			wantDid(t, b, "promote")
		})
	})
	t.Run("until another state comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := refused(t)
			done := make(chan Outcome, 1)
			go func() { done <- b.Retry(t.Context(), "VI_PG") }()
			time.Sleep(time.Minute)
			b.hook(t.Context(), Fault)
			wantResult(t, <-done, Overtaken, "FAULT came at")
			wantDid(t, b, "")
			wantResult(t, b.Retry(t.Context(), "VI_PG"), Overtaken, "FAULT came at")
		})
	})
}

// Two servers that were each promoted while the other was off give their timelines one number. pg_rewind can't tell them apart.
func TestTwinTimelines(t *testing.T) {
	parted := postgres.History{{Timeline: 1, SwitchLSN: 150}}
	for name, change := range map[string]func(*bench){
		"it was made here":     func(b *bench) { _ = b.Store.Keep(keptTimeline, timeline{2}) },
		"it began elsewhere":   func(b *bench) { b.server.history = postgres.History{{Timeline: 1, SwitchLSN: 140}} },
		"the primary has less": func(b *bench) { b.server.position, b.server.lastWAL = at(2, 400), at(2, 400) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := divergedBench(t)
				b.server.position, b.server.lastWAL, b.server.history = at(2, 200), at(2, 200), parted
				streams := false
				b.server.on["swap"] = func() { streams, b.server.history = true, parted }
				b.server.streams = func(string) bool { return streams }
				change(b)
				wantResult(t, b.Rejoin(t.Context(), RejoinRewind), Refused, "only a new copy helps")
				wantResult(t, b.Follow(t.Context(), "VI_PG"), Done, "")
				wantDid(t, b, "clone, stop fast, swap, upstream 10.0.0.100, start-standby")
				if b.made(2) {
					t.Error("what was copied was made elsewhere")
				}
			})
		})
	}
	t.Run("a standby of it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := divergedBench(t)
			b.server.position, b.server.lastWAL, b.server.history = at(2, 200), at(2, 200), parted
			wantResult(t, b.Follow(t.Context(), "VI_PG"), Done, "")
			wantDid(t, b, "")
		})
	})
}

// With the VIP here it is our own server that answers there: what it still replays it replays when it is promoted.
func TestMasterDoesNotWaitForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.network.holds = true
		b.network.set("10.0.0.100", remote(true, at(1, 10)))
		go func() {
			for n := range 30 {
				time.Sleep(10 * time.Millisecond)
				b.network.set("10.0.0.100", remote(true, at(1, postgres.LSN(20+n))))
				b.server.mu.Lock()
				b.server.position = at(1, postgres.LSN(100+n))
				b.server.mu.Unlock()
			}
		}()
		start := time.Now()
		wantResult(t, b.hook(t.Context(), Master), Done, "")
		wantDid(t, b, "promote")
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("took %s", took)
		}
		time.Sleep(time.Second) // until nothing moves any more
	})
}

func TestMasterThatCantCatchUpRefusesAndFollowsTheVIPAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.network.set("10.0.0.3", remote(true, at(1, 200)))
		start := time.Now()
		wantResult(t, b.hook(t.Context(), Master), Refused, "which can't get it from there")
		wantDid(t, b, "upstream 10.0.0.3, upstream 10.0.0.100")
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("took %s, want little more than a second without progress", took)
		}
	})
}

func TestMasterWithServerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.running = false
		wantResult(t, b.hook(t.Context(), Master), Done, "")
		wantDid(t, b, "start-standby, promote")
	})
}

func TestMasterWhileTheServerStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.answering = false
		go func() {
			time.Sleep(4 * time.Second)
			b.server.mu.Lock()
			b.server.answering = true
			b.server.mu.Unlock()
		}()
		wantResult(t, b.hook(t.Context(), Master), Done, "")
		wantDid(t, b, "promote")
	})
}

func TestBackup(t *testing.T) {
	tests := []struct {
		name     string
		change   func(*bench)
		did      string
		detached string
	}{
		{"primary", func(b *bench) { b.server.primary = true }, "stop fast, upstream 10.0.0.100, start-standby", "behind --instance VI_PG follow"},
		{"primary that does not stop", func(b *bench) { b.server.primary, b.server.fail["stop fast"] = true, errFake }, "stop fast, stop immediate, upstream 10.0.0.100, start-standby", "behind --instance VI_PG follow"},
		{"standby", func(b *bench) { b.network.set("10.0.0.100", remote(false, at(1, 100))) }, "", ""},
		{"down", func(b *bench) { b.server.running = false }, "upstream 10.0.0.100, start-standby", "behind --instance VI_PG follow"},
		{"down and diverged", func(b *bench) {
			b.server.running, b.server.lastWAL = false, at(1, 200)
			h := remote(false, at(2, 300))
			h.history = postgres.History{{Timeline: 1, SwitchLSN: 150}}
			b.network.set("10.0.0.100", h)
		}, "", "behind --instance VI_PG follow"},
		{"down, not diverged", func(b *bench) {
			b.server.running, b.server.lastWAL = false, at(1, 150)
			h := remote(false, at(2, 300))
			h.history = postgres.History{{Timeline: 1, SwitchLSN: 150}}
			b.network.set("10.0.0.100", h)
		}, "upstream 10.0.0.100, start-standby", "behind --instance VI_PG follow"},
		{"promotion whose hook was killed", func(b *bench) { _ = b.Store.SetPromoting(true) }, "stop fast, upstream 10.0.0.100, start-standby", "behind --instance VI_PG follow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				tt.change(b)
				if o := b.hook(t.Context(), Backup); o.Err != nil {
					t.Errorf("got %v", o.Err)
				}
				wantDid(t, b, tt.did)
				if got := strings.Join(b.detached, "; "); got != tt.detached {
					t.Errorf("behind the hook: got %q, want %q", got, tt.detached)
				}
				if on, err := b.Store.Promoting(); on || err != nil {
					t.Errorf("promotion still marked: %t, %v", on, err)
				}
			})
		})
	}
}

// A wrong configuration must not keep a primary running, and must not be silent.
// The primary's power goes between its answer and the next question: the hook must not hold up the MASTER that follows.
func TestBackupWhileThePrimaryDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.position, b.server.lastWAL = at(1, 100), at(1, 100)
		h := remote(false, at(2, 200))
		h.silent = true
		b.network.set("10.0.0.100", h)
		start := time.Now()
		if o := b.hook(t.Context(), Backup); o.Err != nil {
			t.Fatal(o.Err)
		}
		if took := time.Since(start); took < 500*time.Millisecond || took > 700*time.Millisecond {
			t.Errorf("took %s, want the time of one question, 650 ms", took)
		}
	})
}

func TestBackupWithoutInclude(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.primary = true
		b.server.fail["upstream 10.0.0.100"] = &postgres.IncludeError{ConfigFile: "postgresql.conf", Cause: "it does not include", Line: "include_if_exists"}
		wantResult(t, b.hook(t.Context(), Backup), Failed, "include_if_exists")
		wantDid(t, b, "stop fast, upstream 10.0.0.100, start-standby")
	})
}

// A full or broken disk under the state directory keeps nobody from stepping down, and lets nobody be promoted.
func TestSteppingDownWithoutState(t *testing.T) {
	for name, breaks := range map[string]func(t *testing.T, s *Store){
		"the newest state can't be read": func(t *testing.T, s *Store) { breakFile(t, s.path(hookFile("VI_PG"))) },
		"no lock for it":                 func(t *testing.T, s *Store) { breakFile(t, s.path(hookFile("VI_PG")+".lock")) },
		"no lock for the data":           func(t *testing.T, s *Store) { breakFile(t, s.path("data-"+s.data+".lock")) },
	} {
		t.Run(name, func(t *testing.T) {
			for state, did := range map[string]string{Backup: "stop fast", Fault: "stop fast", Stop: "stop fast", Deleted: "", Master: ""} {
				b := newBench(t)
				b.server.primary = state != Master
				breaks(t, b.Store)
				want := Failed
				if state == Deleted && strings.Contains(name, "data") { // it touches none
					want = Nothing
				}
				wantResult(t, b.hook(t.Context(), state), want, "")
				wantDid(t, b, did)
			}
		})
	}
	t.Run("by hand without a word of it", func(t *testing.T) {
		b := newBench(t)
		b.server.primary = true
		breakFile(t, b.Store.path("data-"+b.Store.data+"."+activityWork+".json"))
		wantResult(t, b.Stop(t.Context()), Done, "")
		wantDid(t, b, "stop fast")
	})
}

// Another pgnotify that is at work for too long, whatever it does, keeps nobody from stepping down either.
func TestSteppingDownBesideAnotherAtWork(t *testing.T) {
	for state, did := range map[string]string{
		Backup: "stop fast, upstream 10.0.0.100, start-standby", Fault: "stop fast", Stop: "stop fast",
	} {
		for _, ends := range []bool{true, false} { // the other one, without a server to work with
			t.Run(fmt.Sprintf("%s, ends %t", state, ends), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t)
					b.server.primary = true
					unlock, err := b.Store.Lock(t.Context(), "the test", nil)
					if err != nil {
						t.Fatal(err)
					}
					defer unlock()
					if ends {
						b.server.on["stop fast"] = unlock
					}
					start := time.Now()
					o := b.hook(t.Context(), state)
					took := time.Since(start).Round(time.Second)
					if ends {
						wantResult(t, o, Done, "")
						wantDid(t, b, did)
					} else {
						wantResult(t, o, Failed, "another pgnotify did not finish in time (at work: the test")
						wantDid(t, b, "stop fast")
					}
					if want := map[bool]time.Duration{true: time.Minute, false: 2 * time.Minute}[ends]; took != want {
						t.Errorf("took %s, want %s", took, want)
					}
					follows := strings.Join(b.detached, "; ") == "behind --instance VI_PG follow"
					if follows != (state == Backup) {
						t.Errorf("behind the hook: %q", b.detached)
					}
				})
			})
		}
	}
	t.Run("a standby is left alone, and followed later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			unlock, err := b.Store.Lock(t.Context(), "the test", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer unlock()
			wantResult(t, b.hook(t.Context(), Backup), Failed, "did not finish in time")
			wantDid(t, b, "")
			if got := strings.Join(b.detached, "; "); got != "behind --instance VI_PG follow" {
				t.Errorf("behind the hook: %q", got)
			}
		})
	})
}

// A command by hand that makes a primary needs no state for it, and gives way to one that comes while it is at work.
func TestByHandGivesWay(t *testing.T) {
	t.Run("promote", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.hook(t.Context(), Backup)
			b.server.running = false
			b.server.slow["start-standby"] = 50 * time.Second
			done := make(chan Outcome, 1)
			go func() { done <- b.Promote(t.Context()) }()
			time.Sleep(time.Second)
			start := time.Now()
			if o := b.hook(t.Context(), Fault); o.Err != nil {
				t.Error(o.Err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("the hook waited %s", took)
			}
			wantResult(t, <-done, Overtaken, "MASTER was overtaken: FAULT came at")
			wantDid(t, b, "start-standby")
			delete(b.server.slow, "start-standby")
			wantResult(t, b.Promote(t.Context()), Done, "") // what came before is the operator's to judge
		})
	})
	t.Run("states that can't be read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			if err := os.WriteFile(filepath.Join(b.Store.Dir(), "hook-OLD.json"), []byte("torn"), 0o600); err != nil {
				t.Fatal(err)
			}
			b.server.slow["promote"] = 2 * time.Second
			wantResult(t, b.Promote(t.Context()), Done, "")
			// and hide no other
			done := make(chan Outcome, 1)
			b.server.primary, b.server.slow["promote"] = false, time.Hour
			go func() { done <- b.Promote(t.Context()) }()
			time.Sleep(time.Second)
			b.hook(t.Context(), Fault)
			wantResult(t, <-done, Overtaken, "MASTER was overtaken: FAULT came at")
		})
	})
	t.Run("CHECKPOINT of a switchover", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.streams()
			b.server.slow["checkpoint"] = time.Hour
			done := make(chan Outcome, 1)
			go func() {
				_, o := b.Switchover(t.Context(), "", fakeVIP{may: errFake}, time.Minute)
				done <- o
			}()
			time.Sleep(time.Second)
			start := time.Now()
			wantResult(t, b.hook(t.Context(), Backup), Done, "")
			if took := time.Since(start); took > time.Second {
				t.Errorf("the hook waited %s", took)
			}
			wantResult(t, <-done, Overtaken, "BACKUP came at")
			wantDid(t, b, "checkpoint, stop fast, upstream 10.0.0.100, start-standby")
		})
	})
	// vrrpd gave the VIP away, but its answer was lost: the hook for BACKUP waits by then.
	t.Run("the way back of a switchover", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.streams()
			hook := make(chan Outcome, 1)
			_, o := b.Switchover(t.Context(), "", fakeVIP{release: func() error {
				go func() { hook <- b.hook(t.Context(), Backup) }()
				time.Sleep(10 * time.Millisecond)
				return errFake
			}}, time.Minute)
			wantResult(t, o, Failed, "as the test wants; and n1 is not the primary again: MASTER was overtaken: BACKUP came at")
			wantResult(t, <-hook, Done, "")
			wantDid(t, b, "checkpoint, stop fast, upstream 10.0.0.100, start-standby")
		})
	})
}

// breakFile puts a directory in a file's place.
func breakFile(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestFaultOnPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.primary = true
		wantResult(t, b.hook(t.Context(), Fault), Done, "")
		wantDid(t, b, "stop fast, upstream none, start-standby")
		wantResult(t, b.hook(t.Context(), Stop), Nothing, "")
		wantResult(t, b.hook(t.Context(), Deleted), Nothing, "")
	})
}

// A promotion that has been asked for is seen to its end: whoever comes next finds a standby or a primary.
func TestPromotionIsNotBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.slow["promote"] = 500 * time.Millisecond
		first := make(chan Outcome, 1)
		go func() { first <- b.hook(t.Context(), Master) }()
		time.Sleep(200 * time.Millisecond)
		second := b.hook(t.Context(), Backup)
		<-first
		if second.Err != nil {
			t.Errorf("BACKUP: %v", second.Err)
		}
		wantDid(t, b, "promote, stop fast, upstream 10.0.0.100, start-standby")
	})
}

func TestMasterDuringARewindRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		if err := b.Store.SetRebuild(Rebuild{Phase: PhaseRewinding, Why: "pg_rewind from 10.0.0.100"}); err != nil {
			t.Fatal(err)
		}
		unlock, err := b.Store.Lock(t.Context(), "rewind", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		start := time.Now()
		wantResult(t, b.hook(t.Context(), Master), Refused, "is being rewound")
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// divergedBench is n1 with WAL that the primary at the VIP does not have.
func divergedBench(t *testing.T) *bench {
	b := newBench(t)
	b.server.position, b.server.lastWAL = at(1, 200), at(1, 200)
	h := remote(false, at(2, 300))
	h.history = postgres.History{{Timeline: 1, SwitchLSN: 150}}
	b.network.set("10.0.0.100", h)
	b.server.streams = func(string) bool { return b.server.position.Timeline == 2 }
	if _, err := b.Store.Deliver(t.Context(), Event{Name: "VI_PG", State: Backup}, Process{}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFollow(t *testing.T) {
	tests := []struct {
		name   string
		change func(*bench)
		did    string
		result string
		reason string
		phase  Phase
	}{
		{"rewinds", func(*bench) {}, "stop fast, rewind, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"waits for the primary's checkpoint", func(b *bench) {
			b.server.fail["rewind-ready"] = fmt.Errorf("x: %w", postgres.ErrNotCheckpointed)
			go func() {
				time.Sleep(30 * time.Second)
				b.server.mu.Lock()
				delete(b.server.fail, "rewind-ready")
				b.server.mu.Unlock()
			}()
		}, "stop fast, rewind, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"waits for a primary that has no session to spare", func(b *bench) {
			b.server.fail["rewind-ready"] = &pgconn.PgError{Code: "53300"}
			go func() {
				time.Sleep(10 * time.Minute)
				b.server.mu.Lock()
				delete(b.server.fail, "rewind-ready")
				b.server.mu.Unlock()
			}()
		}, "stop fast, rewind, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"clones where a rewind is not permitted", func(b *bench) { b.server.fail["rewind-ready"] = &pgconn.PgError{Code: "42501"} },
			"clone, stop fast, swap, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"rewinds again when the primary went in the middle", func(b *bench) {
			b.server.fail["rewind"] = errFake
			b.server.on["rewind"] = func() {
				b.server.mu.Lock()
				defer b.server.mu.Unlock()
				if _, again := b.server.fail["rewind-ready"]; again || b.server.fail["rewind"] == nil {
					return
				}
				b.server.fail["rewind-ready"] = &net.OpError{Op: "dial", Err: errFake}
				go func() {
					time.Sleep(time.Minute)
					b.server.mu.Lock()
					delete(b.server.fail, "rewind")
					delete(b.server.fail, "rewind-ready")
					b.server.mu.Unlock()
				}()
			}
		}, "stop fast, rewind, stop fast, rewind, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"waits while the server replays its own WAL", func(b *bench) {
			b.server.position, b.server.lastWAL = at(2, 100), at(2, 100)
			b.server.streams = func(string) bool { return b.server.position.LSN >= 300 }
			go func() {
				for range 200 {
					time.Sleep(time.Second)
					b.server.mu.Lock()
					b.server.position.LSN++
					b.server.mu.Unlock()
				}
			}()
		}, "", Done, "", PhaseNone},
		{"leaves what it did not make", func(b *bench) {
			b.Settings.Rewind = false
			_ = os.Mkdir(b.server.NewDir(), 0o700)
			b.cloned++ // so that it may be there in the end
		}, "", Refused, "is in the way of the copy", PhaseDiverged},
		{"clones what can't be rewound", func(b *bench) { b.server.fail["rewind"] = postgres.ErrNotRewindable },
			"stop fast, rewind, clone, stop fast, swap, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"clones what was left half rewound", func(b *bench) { _ = b.Store.SetRebuild(Rebuild{Phase: PhaseRewinding, Why: "x"}) },
			"clone, stop fast, swap, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"clones when rewinding breaks the data", func(b *bench) {
			b.server.fail["rewind"] = errFake
			b.server.on["rewind"] = func() { b.server.incomplete = true }
		}, "stop fast, rewind, clone, stop fast, swap, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"may not clone", func(b *bench) {
			b.Settings.Reclone = false
			b.server.fail["rewind"] = postgres.ErrNotRewindable
		}, "stop fast, rewind", Refused, "pgnotify rejoin --reclone", PhaseDiverged},
		{"may do neither", func(b *bench) { b.Settings.Reclone, b.Settings.Rewind = false, false }, "", Refused, "allow neither", PhaseDiverged},
		{"rewinds what was let in by a server that is promoted only then", func(b *bench) {
			b.server.streams = func(string) bool {
				h := b.network.host("10.0.0.100")
				return h.remote.InRecovery || b.server.position.Timeline == 2
			}
			promoted := b.network.host("10.0.0.100")
			b.network.set("10.0.0.100", remote(true, at(1, 150)))
			go func() {
				time.Sleep(3 * time.Second)
				b.network.set("10.0.0.100", promoted)
			}()
		}, "stop fast, rewind, upstream 10.0.0.100, start-standby", Done, "", PhaseNone},
		{"another cluster", func(b *bench) {
			b.network.set("10.0.0.100", fakeHost{remote: postgres.Remote{SystemID: 9, Timeline: 2, LSN: 1}})
		}, "", Refused, "another cluster", PhaseNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := divergedBench(t)
				tt.change(b)
				wantResult(t, b.Follow(t.Context(), "VI_PG"), tt.result, tt.reason)
				wantDid(t, b, tt.did)
				r, err := b.Store.Rebuild()
				if err != nil || r.Phase != tt.phase {
					t.Errorf("marker %q, %v, want %q", r.Phase, err, tt.phase)
				}
				if _, err := os.Stat(b.server.NewDir()); err == nil && b.cloned == 0 {
					t.Errorf("%s was left", b.server.NewDir())
				}
			})
		})
	}
}

func TestFollowGivesWay(t *testing.T) {
	t.Run("while it waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := divergedBench(t)
			b.network.set("10.0.0.100", fakeHost{refused: true})
			done := make(chan Outcome, 1)
			go func() { done <- b.Follow(t.Context(), "VI_PG") }()
			time.Sleep(time.Minute)
			b.hook(t.Context(), Fault)
			wantResult(t, <-done, Overtaken, "FAULT came at")
			wantDid(t, b, "")
		})
	})
	t.Run("while it copies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := divergedBench(t)
			b.Settings.Rewind = false
			b.server.slow["clone"] = time.Hour
			done := make(chan Outcome, 1)
			go func() { done <- b.Follow(t.Context(), "VI_PG") }()
			time.Sleep(time.Minute)
			b.network.set("10.0.0.100", fakeHost{refused: true})
			wantResult(t, b.hook(t.Context(), Master), Refused, "has diverged from the last primary's")
			wantResult(t, <-done, Overtaken, "MASTER came at")
			wantDid(t, b, "clone")
			if _, err := os.Stat(b.server.NewDir()); err == nil {
				t.Errorf("%s was left", b.server.NewDir())
			}
		})
	})
	t.Run("not in the middle of a rewind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := divergedBench(t)
			b.server.slow["rewind"] = time.Minute
			done := make(chan Outcome, 1)
			go func() { done <- b.Follow(t.Context(), "VI_PG") }()
			time.Sleep(10 * time.Second)
			wantResult(t, b.hook(t.Context(), Master), Refused, "is being rewound")
			<-done
			if got := b.server.did(); !strings.HasPrefix(got, "stop fast, rewind, upstream 10.0.0.100, start-standby") {
				t.Errorf("the rewind was not finished: %s", got)
			}
		})
	})
}

func TestAfterPromote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.primary = true
		b.hook(t.Context(), Master)
		if err := b.Store.SetRebuild(Rebuild{Phase: PhaseRewound, Why: "x"}); err != nil {
			t.Fatal(err)
		}
		wantResult(t, b.AfterPromote(t.Context(), "VI_PG"), Done, "")
		wantDid(t, b, "switch-wal, checkpoint")
		if r, err := b.Store.Rebuild(); err != nil || r.Phase != PhaseNone {
			t.Errorf("marker %+v, %v: a server that was promoted is whole", r, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.primary = true
		b.hook(t.Context(), Master)
		b.server.slow["checkpoint"] = time.Hour
		done := make(chan Outcome, 1)
		go func() { done <- b.AfterPromote(t.Context(), "VI_PG") }()
		time.Sleep(time.Minute)
		b.hook(t.Context(), Backup)
		wantResult(t, <-done, Overtaken, "BACKUP came at")
	})
}

func TestByHand(t *testing.T) {
	tests := []struct {
		name   string
		change func(*bench)
		run    func(*bench, context.Context) Outcome
		did    string
		result string
		reason string
	}{
		{"promote", func(*bench) {}, (*bench).promoteByHand, "promote", Done, ""},
		{"promote a primary", func(b *bench) { b.server.primary = true }, (*bench).promoteByHand, "", Nothing, ""},
		{"promote beside a primary", func(b *bench) { b.network.set("10.0.0.2", remote(false, at(1, 1))) }, (*bench).promoteByHand, "", Refused, "n2 at 10.0.0.2 answers as a primary"},
		{"demote", func(b *bench) { b.server.primary = true }, (*bench).demoteByHand, "stop fast, upstream 10.0.0.100, start-standby", Done, ""},
		{"demote a standby", func(*bench) {}, (*bench).demoteByHand, "", Nothing, ""},
		{"demote nothing", func(b *bench) { b.server.running = false }, (*bench).demoteByHand, "", Nothing, ""},
		{"start", func(b *bench) { b.server.running = false }, func(b *bench, ctx context.Context) Outcome { return b.Start(ctx, false) }, "start-standby", Done, ""},
		{"start twice", func(*bench) {}, func(b *bench, ctx context.Context) Outcome { return b.Start(ctx, false) }, "", Nothing, ""},
		{"start as it is beside a primary", func(b *bench) {
			b.server.running, b.server.primary = false, true
			b.network.set("10.0.0.3", remote(false, at(1, 1)))
		}, func(b *bench, ctx context.Context) Outcome { return b.Start(ctx, true) }, "", Refused, "would be a second one"},
		{"start as it is", func(b *bench) { b.server.running = false }, func(b *bench, ctx context.Context) Outcome { return b.Start(ctx, true) }, "start-as-is", Done, ""},
		{"stop", func(*bench) {}, func(b *bench, ctx context.Context) Outcome { return b.Stop(ctx) }, "stop fast", Done, ""},
		{"stop twice", func(b *bench) { b.server.running = false }, func(b *bench, ctx context.Context) Outcome { return b.Stop(ctx) }, "", Nothing, ""},
		{"rejoin without primary", func(*bench) {}, func(b *bench, ctx context.Context) Outcome { return b.Rejoin(ctx, RejoinAuto) }, "", Refused, "no primary answers at the VIP"},
		{"rejoin what follows", func(b *bench) { b.network.set("10.0.0.100", remote(false, at(1, 100))) }, func(b *bench, ctx context.Context) Outcome { return b.Rejoin(ctx, RejoinAuto) }, "", Nothing, ""},
		{"clone from who is off", func(*bench) {}, func(b *bench, ctx context.Context) Outcome { return b.CloneFrom(ctx, n2Addr) }, "", Refused, "can't be cloned: unreachable"},
		{"clone over a primary", func(b *bench) { b.server.primary = true; b.network.set("10.0.0.2", remote(true, at(1, 1))) }, func(b *bench, ctx context.Context) Outcome { return b.CloneFrom(ctx, n2Addr) }, "", Refused, "pgnotify demote or stop first"},
		{"clone", func(b *bench) { b.network.set("10.0.0.2", remote(true, at(1, 1))) }, func(b *bench, ctx context.Context) Outcome { return b.CloneFrom(ctx, n2Addr) }, "clone, stop fast, swap, upstream 10.0.0.100, start-standby", Done, ""},
		{"clone on a full disk", func(b *bench) {
			b.network.set("10.0.0.2", remote(true, at(1, 1)))
			b.server.fail["clone"] = errFake
		}, func(b *bench, ctx context.Context) Outcome { return b.CloneFrom(ctx, n2Addr) }, "clone", Failed, "as the test wants"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				tt.change(b)
				wantResult(t, tt.run(b, t.Context()), tt.result, tt.reason)
				wantDid(t, b, tt.did)
				if _, err := os.Stat(b.server.NewDir()); err == nil && tt.result == Failed {
					t.Errorf("%s was left", b.server.NewDir())
				}
			})
		})
	}
}

// A command that has nothing to do, or refuses, does not end the work behind a hook.
func TestByHandSparesTheFollower(t *testing.T) {
	for name, run := range map[string]func(*bench) Outcome{
		"rejoin": func(b *bench) Outcome { return b.Rejoin(t.Context(), RejoinAuto) },
		"clone":  func(b *bench) Outcome { return b.CloneFrom(t.Context(), n2Addr) },
		"promote": func(b *bench) Outcome {
			b.network.set("10.0.0.2", remote(false, at(1, 1)))
			return b.Promote(t.Context())
		},
		"demote": func(b *bench) Outcome { return b.Demote(t.Context()) },
		"start":  func(b *bench) Outcome { return b.Start(t.Context(), false) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			unlock, err := b.Store.lockRejoin(t.Context(), following, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer unlock()
			asked := make(chan os.Signal, 1)
			signal.Notify(asked, syscall.SIGTERM) // the follower is this process
			defer signal.Stop(asked)
			if o := run(b); o.Result != Nothing && o.Result != Refused {
				t.Errorf("got %s, %v", o.Result, o.Err)
			}
			select {
			case <-asked:
				t.Error("the follower was asked to end")
			default:
			}
			wantDid(t, b, "")
		})
	}
}

// Work behind a hook that a command by hand has ended is begun again after it, unless the command did that work or would be undone by it.
func TestByHandResumesWorkBehindAHook(t *testing.T) {
	primary := func(b *bench) { b.server.primary = true }
	down := func(b *bench) { b.server.running = false }
	broken := func(b *bench) { b.server.running, b.server.fail["start-standby"] = false, errFake }
	source := func(b *bench) { b.network.set("10.0.0.2", remote(true, at(1, 1))) }
	start := func(b *bench, ctx context.Context) Outcome { return b.Start(ctx, false) }
	for name, tt := range map[string]struct {
		change func(*bench)
		run    func(*bench, context.Context) Outcome
		result string
		again  bool
	}{
		"start":                    {down, start, Done, true}, // as a standby, which is to be promoted
		"start, broken":            {broken, start, Failed, true},
		"promote":                  {down, (*bench).promoteByHand, Done, false},
		"promote, broken":          {broken, (*bench).promoteByHand, Failed, true},
		"demote":                   {primary, (*bench).demoteByHand, Done, false},
		"stop":                     {primary, func(b *bench, ctx context.Context) Outcome { return b.Stop(ctx) }, Done, false},
		"clone":                    {source, func(b *bench, ctx context.Context) Outcome { return b.CloneFrom(ctx, n2Addr) }, Done, true},
		"clone, on a full disk":    {func(b *bench) { source(b); b.server.fail["clone"] = errFake }, func(b *bench, ctx context.Context) Outcome { return b.CloneFrom(ctx, n2Addr) }, Failed, true},
		"promote, has to catch up": {func(b *bench) { b.network.set("10.0.0.2", remote(true, at(1, 200))) }, (*bench).promoteByHand, Refused, true},
		"rejoin, the source is gone": {func(b *bench) {
			b.network.set("10.0.0.100", remote(false, at(1, 100)))
			b.server.upstream, b.server.fail["start-standby"] = "", errFake
		}, func(b *bench, ctx context.Context) Outcome { return b.Rejoin(ctx, RejoinAuto) }, Failed, true},
	} {
		for what, verb := range map[string]string{following: "follow", retrying: "retry"} {
			t.Run(name+", "+verb, func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				tt.change(b)
				behind := b.behindAHook(t, what)
				o := tt.run(b, t.Context())
				if o.Result != tt.result {
					t.Errorf("got %s, %v, want %s", o.Result, o.Err, tt.result)
				}
				if err := behind(); err == nil || !strings.Contains(err.Error(), "terminated") {
					t.Errorf("the work behind a hook ended with %v, want it asked to", err)
				}
				if again := slices.Contains(b.detached, "behind --instance VI_PG "+verb); again != tt.again {
					t.Errorf("behind the command: %q, want it again: %t", b.detached, tt.again)
				}
			})
		}
	}
}

// behindAHook is work behind a hook, in a process of its own that has the rejoin lock for as long as it lives. ended is how that ended.
func (b *bench) behindAHook(t *testing.T, what string) (ended func() error) {
	t.Helper()
	release, err := b.Store.flock(t.Context(), b.Store.rejoinLock(), nil)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("/bin/sleep", "20")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	start, _, err := procStat(child.Process.Pid)
	p, err2 := ThisProcess()
	p.PID, p.Start, p.Leader = child.Process.Pid, start, start
	a := activity{What: what, Instance: "VI_PG", Since: time.Now(), Process: p}
	if err := errors.Join(err, err2, b.Store.write("data-"+b.Store.data+"."+activityRejoin+".json", a, false)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		err := child.Wait()
		release()
		done <- err
	}()
	return func() error { return <-done }
}

// A server that is made the primary while it is copied over, or while its rewind waits, is not stopped for that.
func TestRebuildLeavesAPrimaryAlone(t *testing.T) {
	leads := func(b *bench) {
		b.server.mu.Lock()
		defer b.server.mu.Unlock()
		b.server.primary = true
	}
	t.Run("clone", func(t *testing.T) {
		b := newBench(t)
		b.network.set("10.0.0.2", remote(true, at(1, 1)))
		b.server.on["clone"] = func() { leads(b) }
		wantResult(t, b.CloneFrom(t.Context(), n2Addr), Refused, "it is left alone: it is a primary")
		wantDid(t, b, "clone")
		if _, err := os.Stat(b.server.NewDir()); err == nil {
			t.Errorf("%s was left", b.server.NewDir())
		}
	})
	t.Run("rewind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := divergedBench(t)
			b.server.fail["rewind-ready"] = postgres.ErrNotCheckpointed
			go func() {
				time.Sleep(30 * time.Second)
				leads(b)
				b.server.mu.Lock()
				delete(b.server.fail, "rewind-ready")
				b.server.mu.Unlock()
			}()
			wantResult(t, b.Follow(t.Context(), "VI_PG"), Refused, "it is left alone: it is a primary")
			wantDid(t, b, "")
		})
	})
}

// A hook is previewed with a hook's rules: by hand alone an operator says whose data is the truth.
func TestPreview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hook(t.Context(), Fault)
		if _, p := b.Preview(t.Context(), Event{Name: "VI_PG", State: Master}); short(p) != "promote, after-promote" {
			t.Errorf("got %s", short(p))
		}
		if err := b.Store.SetRebuild(Rebuild{Phase: PhaseDiverged, Why: "as the test wants"}); err != nil {
			t.Fatal(err)
		}
		if _, p := b.Preview(t.Context(), Event{Name: "VI_PG", State: Master}); !strings.Contains(p.Refusal, "has diverged from the last primary's") {
			t.Errorf("hook: got %s", short(p))
		}
		if _, p := b.Preview(t.Context(), Event{State: Master, ByHand: true}); short(p) != "promote, after-promote" {
			t.Errorf("by hand: got %s", short(p))
		}
		wantDid(t, b, "")
		if r, err := b.Store.Newest("VI_PG"); err != nil || r.State != Fault {
			t.Errorf("newest state %+v, %v, want it as it was", r, err)
		}
	})
}

func (b *bench) promoteByHand(ctx context.Context) Outcome { return b.Promote(ctx) }
func (b *bench) demoteByHand(ctx context.Context) Outcome  { return b.Demote(ctx) }

// streams makes the server a primary that n2 streams from.
func (b *bench) streams() {
	b.server.primary = true
	b.network.set("10.0.0.2", remote(true, at(1, 100)))
	b.Server = withStandbys{b.server, "n2"}
}

func TestSwitchover(t *testing.T) {
	released := func(b *bench) Mastership {
		return fakeVIP{release: func() error {
			b.network.set("10.0.0.2", remote(false, at(2, 200)))
			b.network.set("10.0.0.100", remote(false, at(2, 200)))
			return nil
		}}
	}
	t.Run("moves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.streams()
			who, o := b.Switchover(t.Context(), "n2", released(b), time.Minute)
			wantResult(t, o, Done, "")
			if who != "n2" {
				t.Errorf("got %q, want n2", who)
			}
			wantDid(t, b, "checkpoint, stop fast")
		})
	})
	t.Run("refuses without a standby that streams", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.streams()
			b.Server = b.server
			_, o := b.Switchover(t.Context(), "", released(b), time.Minute)
			wantResult(t, o, Refused, "nobody could take over")
			wantDid(t, b, "")
		})
	})
	t.Run("stops nothing when the VIP would not be given away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.streams()
			_, o := b.Switchover(t.Context(), "", fakeVIP{may: errFake}, time.Minute)
			wantResult(t, o, Refused, "vrrpd does not give the VIP away: as the test wants")
			wantDid(t, b, "checkpoint")
		})
	})
	t.Run("is primary again when the VIP can't be given away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.streams()
			_, o := b.Switchover(t.Context(), "", fakeVIP{release: func() error { return errFake }}, time.Minute)
			wantResult(t, o, Failed, "as the test wants; n1 is the primary again")
			wantDid(t, b, "checkpoint, stop fast, start-standby, promote")
		})
	})
	t.Run("is primary again when nobody has its last WAL", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.streams()
			b.network.set("10.0.0.2", remote(true, at(1, 99)))
			_, o := b.Switchover(t.Context(), "", released(b), time.Minute)
			wantResult(t, o, Failed, "no standby has received all WAL of n1 (timeline 1 at 0/64); n1 is the primary again")
		})
	})
}

// fakeVIP is given away by release, if it may be.
type fakeVIP struct {
	may     error
	release func() error
}

func (v fakeVIP) MayRelease(context.Context) error { return v.may }
func (v fakeVIP) Release(context.Context) error    { return v.release() }

// withStandbys is a primary that somebody streams from.
type withStandbys struct {
	*fakeServer
	name string
}

func (w withStandbys) Facts(ctx context.Context) (postgres.Facts, error) {
	f, err := w.fakeServer.Facts(ctx)
	f.ReplicationState = []postgres.Standby{{Name: w.name, State: "streaming", SyncState: "async"}}
	return f, err
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		change func(*bench)
		role   string
		lag    int64
		want   string // "" = healthy
	}{
		{"standby", func(*bench) {}, "standby", -1, ""},
		{"standby, want primary", func(*bench) {}, "primary", -1, "want a primary"},
		{"primary", func(b *bench) { b.server.primary = true }, "primary", 0, ""},
		{"any", func(*bench) {}, "any", -1, ""},
		{"down", func(b *bench) { b.server.running = false }, "any", -1, "not running"},
		{"does not answer", func(b *bench) { b.server.answering = false }, "any", -1, "does not answer"},
		{"can't be observed", func(b *bench) { b.server.fail["facts"] = errFake }, "any", -1, "as the test wants"},
		{"lag", func(b *bench) { b.network.set("10.0.0.100", remote(false, at(1, 1000))) }, "standby", 900, ""},
		{"too much lag", func(b *bench) { b.network.set("10.0.0.100", remote(false, at(1, 1000))) }, "standby", 899, "lags 900 bytes"},
		{"lag of another cluster's", func(b *bench) {
			h := remote(false, at(1, 100))
			h.remote.SystemID++
			b.network.set("10.0.0.100", h)
		}, "standby", 899, "belongs to another cluster"},
		{"ahead of a primary that it does not follow", func(b *bench) {
			b.network.set("10.0.0.100", remote(false, at(1, 50)))
			b.server.streams = nil
		}, "standby", 899, "does not stream"},
		{"any lag, and does not stream", func(b *bench) { b.server.streams = nil }, "standby", -1, ""},
		{"lag on another timeline", func(b *bench) { b.network.set("10.0.0.100", remote(false, at(2, 100))) }, "standby", 899, "the standby is on timeline 1, VIP at 10.0.0.100 on 2"},
		{"lag unknown", func(*bench) {}, "standby", 899, "the lag can't be told"},
		{"down, but at work", func(b *bench) {
			b.server.running = false
			_, _ = b.Store.Lock(context.Background(), "MASTER VI_PG", nil)
		}, "primary", -1, ""},
		{"down, rewinding", func(b *bench) {
			b.server.running = false
			_ = b.Store.SetRebuild(Rebuild{Phase: PhaseRewinding})
			_, _ = b.Store.lockRejoin(context.Background(), following, "", nil)
		}, "any", -1, ""},
		{"down, left half rewound", func(b *bench) {
			b.server.running = false
			_ = b.Store.SetRebuild(Rebuild{Phase: PhaseRewinding})
		}, "any", -1, "not running"},
		{"down, rejoined by hand", func(b *bench) {
			b.server.running = false
			_, _, _ = b.Store.TakeRejoin(context.Background(), "rejoin by hand", time.Second)
		}, "primary", -1, ""},
		{"a standby that is cloned by hand", func(b *bench) {
			_, _, _ = b.Store.TakeRejoin(context.Background(), "clone by hand", time.Second)
		}, "standby", 0, ""},
		{"down, a rejoin by hand has ended", func(b *bench) {
			b.server.running = false
			_, unlock, _ := b.Store.TakeRejoin(context.Background(), "rejoin by hand", time.Second)
			unlock()
		}, "any", -1, "not running"},
		{"down, follower merely waits", func(b *bench) {
			b.server.running = false
			_, _ = b.Store.lockRejoin(context.Background(), following, "", nil)
		}, "any", -1, "not running"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			tt.change(b)
			_, err := b.Check(t.Context(), tt.role, tt.lag)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestHistoryTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.network.set("10.0.0.2", fakeHost{err: fakeSQLState("28000")})
		b.hook(t.Context(), Master)
		b.network.set("10.0.0.2", fakeHost{refused: true})
		b.hook(t.Context(), Master)
		all, err := b.Store.History(10)
		if err != nil || len(all) != 2 {
			t.Fatalf("got %v, %v, want two decisions", all, err)
		}
		if all[0].Outcome != Refused || !strings.Contains(all[0].Reason, "can't tell whether n2") || all[0].Seq != 1 {
			t.Errorf("got %+v", all[0])
		}
		if all[1].Outcome != Done || len(all[1].Steps) != 2 || all[1].Seq != 2 {
			t.Errorf("got %+v", all[1])
		}
	})
}

func TestExplain(t *testing.T) {
	f := alone()
	f.Peers[0] = answers("n2", n2Addr, Primary, at(2, 1))
	got := strings.Join(Explain(f), "\n")
	for _, want := range []string{"n1 can't be promoted: n2 at 10.0.0.2 answers as a primary", "condition 3, no other primary: FAILS, n2", "holds for n3 at 10.0.0.3, unreachable"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	f.Peers[0] = answers("n2", n2Addr, Standby, at(1, 200))
	got = strings.Join(Explain(f), "\n")
	for _, want := range []string{"n1 can't be promoted yet: it must first receive from n2 at 10.0.0.2 what it has more", "condition 4, no standby with more WAL: FAILS, n2"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	f.Local.Role = RoleDown
	if got := Explain(f)[0]; got != "n1 would be started as a standby first, then judged again" {
		t.Errorf("got %q", got)
	}
	if got := Explain(alone())[0]; got != "n1 can be promoted now" {
		t.Errorf("got %q", got)
	}
}
