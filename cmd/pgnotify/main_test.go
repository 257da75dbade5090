package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		// pgnotify on a host whose PostgreSQL is a file, FAKE/server.json, and whose network is FAKE/network.json.
		"pgnotify": func() { os.Exit(run(context.Background(), os.Args, fakeHost(os.Getenv("FAKE")))) },
		// ingroup runs a command in a process group of its own, as daemons run their hooks.
		"ingroup": func() {
			cmd := exec.Command(os.Args[1], os.Args[2:]...)
			cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, &syscall.SysProcAttr{Setpgid: true}
			_ = cmd.Run()
			os.Exit(cmd.ProcessState.ExitCode())
		},
	})
}

func fakeHost(dir string) machine {
	h := host()
	h.becomeOwner = func(dataDir string) error {
		_, err := os.Stat(dataDir)
		return err
	}
	h.openServer = func(postgres.Config) (promote.Server, string, error) { return &fileServer{dir}, "/bin", nil }
	h.network = fileNetwork{dir}
	h.clone = func(_ context.Context, o postgres.CloneOptions) error { return os.Mkdir(o.Dir, 0o700) }
	return h
}

// fileServer is a PostgreSQL server in a file, so that several processes see the same one. Each call that changes something is
// a line in FAKE/calls.
type fileServer struct{ dir string }

type fileState struct {
	Running   bool              `json:"running"`
	Primary   bool              `json:"primary"`
	Timeline  postgres.Timeline `json:"timeline"`
	LSN       postgres.LSN      `json:"lsn"`
	Upstream  string            `json:"upstream"`
	Streaming bool              `json:"streaming"`
	Standbys  []string          `json:"standbys"` // that stream from it
}

func (f *fileServer) with(change func(*fileState)) fileState {
	file, err := os.OpenFile(filepath.Join(f.dir, "server.json"), os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		panic(err)
	}
	var s fileState
	if err := json.NewDecoder(file).Decode(&s); err != nil {
		panic(err)
	}
	if change != nil {
		change(&s)
		text, err := json.Marshal(s)
		if err == nil {
			err = errors.Join(file.Truncate(0), second(file.WriteAt(text, 0)))
		}
		if err != nil {
			panic(err)
		}
	}
	return s
}

func second(_ int, err error) error { return err }

func (f *fileServer) call(ctx context.Context, name string, change func(*fileState)) error {
	// A script that makes FAKE/hold has the next call wait until it goes, and finds FAKE/held meanwhile.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(filepath.Join(f.dir, "hold")); err != nil {
			break
		}
		if err := os.WriteFile(filepath.Join(f.dir, "held"), nil, 0o600); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	f.with(change)
	calls, err := os.OpenFile(filepath.Join(f.dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer calls.Close()
	return second(fmt.Fprintln(calls, name))
}

func (f *fileServer) Facts(context.Context) (postgres.Facts, error) {
	s := f.with(nil)
	p := postgres.Facts{
		Running: s.Running, Answering: s.Running, InRecovery: !s.Primary, StandbySignal: !s.Primary, SystemID: 7,
		Timeline: s.Timeline, LSN: s.LSN, ReplayLSN: s.LSN, PrimaryConninfo: s.Upstream,
	}
	if s.Streaming {
		p.Upstream.Status = "streaming"
	}
	for _, name := range s.Standbys {
		p.ReplicationState = append(p.ReplicationState, postgres.Standby{Name: name, State: "streaming"})
	}
	return p, nil
}

func (f *fileServer) LastWAL(context.Context) (postgres.Position, error) {
	s := f.with(nil)
	return postgres.Position{Timeline: s.Timeline, LSN: s.LSN}, nil
}
func (f *fileServer) RewindIncomplete() bool { return false }
func (f *fileServer) History(postgres.Timeline) (postgres.History, error) {
	return nil, os.ErrNotExist
}
func (f *fileServer) StartStandby(ctx context.Context) error {
	return f.call(ctx, "start standby", func(s *fileState) { s.Running, s.Primary = true, false })
}
func (f *fileServer) StartAsIs(ctx context.Context) error {
	return f.call(ctx, "start as is", func(s *fileState) { s.Running = true })
}
func (f *fileServer) Stop(ctx context.Context, mode postgres.StopMode) error {
	return f.call(ctx, "stop "+string(mode), func(s *fileState) { s.Running, s.Streaming = false, false })
}
func (f *fileServer) Promote(ctx context.Context) (postgres.Timeline, postgres.LSN, error) {
	err := f.call(ctx, "promote", func(s *fileState) { s.Primary, s.Streaming = true, false; s.Timeline++ })
	s := f.with(nil)
	return s.Timeline, s.LSN, err
}
func (f *fileServer) SwitchWAL(ctx context.Context) error  { return f.call(ctx, "pg_switch_wal", nil) }
func (f *fileServer) Checkpoint(ctx context.Context) error { return f.call(ctx, "CHECKPOINT", nil) }
func (f *fileServer) ResetAuto(ctx context.Context) error  { return f.call(ctx, "reset auto", nil) }
func (f *fileServer) SetUpstream(ctx context.Context, conninfo string) error {
	return f.call(ctx, "set upstream", func(s *fileState) { s.Upstream = conninfo })
}
func (f *fileServer) ClearUpstream(ctx context.Context) error {
	return f.call(ctx, "clear upstream", func(s *fileState) { s.Upstream = "" })
}
func (f *fileServer) RewindReady(context.Context, string) error { return nil }
func (f *fileServer) Rewind(ctx context.Context, _ string, _ postgres.Progress) error {
	return f.call(ctx, "rewind", nil)
}
func (f *fileServer) NewDir() string { return filepath.Join(f.dir, "data.new") }
func (f *fileServer) Swap(string) (string, error) {
	return "", f.call(context.Background(), "swap", nil)
}

// fileNetwork answers with what FAKE/network.json says of each address: refused (if it is not there), primary, standby, denied.
type fileNetwork struct{ dir string }

func (n fileNetwork) is(host string) string {
	text, err := os.ReadFile(filepath.Join(n.dir, "network.json"))
	if err != nil {
		return "refused"
	}
	var all map[string]string
	if err := json.Unmarshal(text, &all); err != nil {
		panic(err)
	}
	return all[host]
}

func (n fileNetwork) Dial(_ context.Context, address string) error {
	host, _, err := net.SplitHostPort(address)
	if is := n.is(host); err == nil && (is == "" || is == "refused") {
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return err
}

func (n fileNetwork) Ask(_ context.Context, conninfo string) (postgres.Remote, error) {
	host, _, _ := strings.Cut(strings.TrimPrefix(conninfo, "host="), " ")
	switch n.is(host) {
	case "primary":
		return postgres.Remote{SystemID: 7, Timeline: 1, LSN: 100, Version: 150000}, nil
	case "standby":
		return postgres.Remote{SystemID: 7, Timeline: 1, LSN: 100, Version: 150000, InRecovery: true}, nil
	}
	return postgres.Remote{}, errors.New("no pg_hba.conf entry")
}

func (fileNetwork) Holds(netip.Addr) (bool, error) { return false, nil }

func (fileNetwork) History(context.Context, string, postgres.Timeline) (postgres.History, error) {
	return nil, nil
}

const testSettings = `node = "n1"
[postgres]
data_dir = "DIR/data"
[hook]
vip = "10.0.0.100"
peers = { n1 = ["10.0.0.1"], n2 = ["10.0.0.2"] }
[log]
file = "DIR/log"
[timeouts]
handover = "300ms"
`

// endBehind ends what runs behind the hooks of a script, told by its directory on the command line: a standby that is followed here never streams,
// and the directory goes now.
func endBehind(t *testing.T, dir string) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := ""
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil || !bytes.Contains(b, []byte(dir)) {
				continue
			}
			left = string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("still runs after its script: %s", left)
			return
		}
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Defer(func() { endBehind(t, env.WorkDir) })
			env.Setenv("FAKE", env.WorkDir)
			env.Setenv("PGN", "--config="+filepath.Join(env.WorkDir, "pgnotify.toml"))
			env.Setenv("STATE", "--state-dir="+filepath.Join(env.WorkDir, "state"))
			settings := strings.ReplaceAll(testSettings, "DIR", env.WorkDir)
			return errors.Join(
				os.Mkdir(filepath.Join(env.WorkDir, "data"), 0o700),
				os.WriteFile(filepath.Join(env.WorkDir, "calls"), nil, 0o600),
				os.WriteFile(filepath.Join(env.WorkDir, "pgnotify.toml"), []byte(settings), 0o600),
				os.WriteFile(filepath.Join(env.WorkDir, "server.json"), []byte(`{"running":true,"timeline":1,"lsn":"0/64","upstream":"host=10.0.0.100"}`), 0o600),
			)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// code N PROGRAM ARGS: the program must exit with N.
			"code": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: code N program args")
				}
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec(args[1], args[2:]...)
				var exit *exec.ExitError
				got := 0
				if errors.As(err, &exit) {
					got = exit.ExitCode()
				} else {
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
			// calls N LINE: FAKE/calls has LINE N times within 5 s.
			"calls": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				count := 0
				for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
					text, _ := os.ReadFile(ts.MkAbs("calls"))
					if count = strings.Count(string(text), args[1]+"\n"); count == want {
						return
					}
				}
				ts.Fatalf("%d times %q, want %d", count, args[1], want)
			},
		},
	})
}

// The commands with their words, each with what makes it a usage error.
var verbs = []struct {
	words string // that are right
}{
	{"notify INSTANCE VI_1 MASTER 100"}, {"status"}, {"explain"}, {"history"}, {"check"}, {"switchover"}, {"promote"}, {"demote"}, {"rejoin"},
	{"clone --from n2"}, {"start"}, {"stop"}, {"version"}, {"behind follow"},
}

// untouchable is a host on which nothing may be touched.
func untouchable(t *testing.T) (machine, *bytes.Buffer) {
	var errs bytes.Buffer
	touched := func(what string) { t.Errorf("%s before the command line was judged", what) }
	return machine{
		stdout: &bytes.Buffer{}, stderr: &errs, getenv: func(string) string { return "" },
		becomeOwner: func(string) error { touched("became the owner"); return errors.ErrUnsupported },
		openServer: func(postgres.Config) (promote.Server, string, error) {
			touched("opened the server")
			return nil, "", errors.ErrUnsupported
		},
		network: fileNetwork{t.TempDir()},
		clone:   func(context.Context, postgres.CloneOptions) error { touched("cloned"); return errors.ErrUnsupported },
	}, &errs
}

func TestUsageErrorsTouchNothing(t *testing.T) {
	type wrong struct{ name, args, want string }
	tests := []wrong{
		{"no verb", "", "no verb given"},
		{"unknown verb", "agents", `unknown verb "agents"`},
		{"help is a flag", "help", `unknown verb "help"`},
		{"unknown type", "notify THING VI_1 MASTER 100", `TYPE: want INSTANCE or GROUP (got "THING")`},
		{"unknown state", "notify INSTANCE VI_1 LUNCH 100", `STATE: want MASTER, BACKUP, FAULT, STOP or DELETED (got "LUNCH")`},
		{"priority too high", "notify INSTANCE VI_1 MASTER 256", `PRIORITY: want a number from 0 to 255 (got "256")`},
		{"priority no number", "notify INSTANCE VI_1 MASTER x", `PRIORITY: want a number from 0 to 255 (got "x")`},
		{"too few words", "notify INSTANCE VI_1 MASTER", "PRIORITY is missing"},
		{"rewind and reclone", "rejoin --rewind --reclone", "exclude each other"},
		{"clone from nowhere", "clone", "--from is missing"},
		{"clone from nobody", "clone --from n9", `--from: "n9" is no node`},
		{"clone from ourselves", "clone --from n1", "--from: n1 is this node itself"},
		{"role", "check --role king", `--role: want primary, standby or any (got "king")`},
		{"lag", "check --max-lag lots", `--max-lag: size "lots"`},
		{"empty lag", "check --max-lag=", `--max-lag: size ""`},
		{"timeout", "check --timeout 0s", "--timeout: want more than 0"},
		{"hold without unit", "switchover --for 30", "invalid value"},
		{"hold", "switchover --for 0s", "--for and --wait: want more than 0"},
		{"number", "history -n 0", "-n: want 1 or more"},
		{"watch too often", "status --watch --every 1ms", "--every: want 100ms or more"},
		{"level", "--log-level loud status", `--log-level: want debug, info, warn or error (got "loud")`},
		{"format", "status --log-format xml", `--log-format: want text or json (got "xml")`},
		{"unknown work", "behind lunch", `WORK: want follow, after-promote or retry (got "lunch")`},
	}
	for _, v := range verbs {
		verb, _, _ := strings.Cut(v.words, " ")
		tests = append(tests,
			wrong{verb + " with a surplus word", v.words + " surplus", `"surplus"`},
			wrong{verb + " with a flag after the words", v.words + " surplus --dry-run", "flags stand before the words"},
			wrong{verb + " with a dashed word", v.words + " -- -x", "flags stand before the words"},
			wrong{verb + " with an unknown flag", verb + " --nonsense", "provided but not defined: -nonsense"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			settings := filepath.Join(dir, "pgnotify.toml")
			if err := os.WriteFile(settings, []byte(strings.ReplaceAll(testSettings, "DIR", dir)), 0o600); err != nil {
				t.Fatal(err)
			}
			h, errs := untouchable(t)
			args := append([]string{"pgnotify", "--config", settings, "--state-dir", filepath.Join(dir, "state")}, strings.Fields(tt.args)...)
			if code := run(t.Context(), args, h); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if got := errs.String(); !strings.Contains(got, tt.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("got %q, want one line with %q", got, tt.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("something was made: %v", left)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, verb := range append([]string{""}, "notify", "status", "explain", "history", "check", "switchover", "promote", "demote", "rejoin", "clone", "start", "stop", "version") {
		t.Run("pgnotify "+verb, func(t *testing.T) {
			h, _ := untouchable(t)
			args := []string{"pgnotify"}
			if verb != "" {
				args = append(args, verb)
			}
			if code := run(t.Context(), append(args, "--help"), h); code != 0 {
				t.Errorf("exit code %d", code)
			}
			got := h.stdout.(*bytes.Buffer).String()
			if first, _, _ := strings.Cut(got, "\n"); !strings.HasSuffix(first, ".") {
				t.Errorf("does not open with a sentence: %q", first)
			}
			golden := filepath.Join("testdata", "help", "pgnotify"+strings.TrimRight("-"+verb, "-")+".txt")
			if *update {
				if err := errors.Join(os.MkdirAll(filepath.Dir(golden), 0o755), os.WriteFile(golden, []byte(got), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

// What is wrong on the host gives one clear error, exit code 1, and changes nothing.
func TestBadHost(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, dir, settings string)
		want   string
	}{
		{"no settings", func(t *testing.T, _, settings string) { check(t, os.Remove(settings)) }, "read settings: open "},
		{"garbled settings", func(t *testing.T, _, settings string) { check(t, os.WriteFile(settings, []byte("[postgres\n"), 0o600)) }, "not TOML"},
		{"unknown key", func(t *testing.T, _, settings string) {
			check(t, os.WriteFile(settings, []byte(strings.Replace(testSettings, "data_dir", "data_dri", 1)), 0o600))
		}, "pgnotify.toml:3: postgres.data_dri: unknown key"},
		{"no data directory", func(t *testing.T, dir, _ string) { check(t, os.RemoveAll(filepath.Join(dir, "data"))) }, "no such file or directory"},
		{"no PostgreSQL in it", func(t *testing.T, dir, _ string) { check(t, os.Remove(filepath.Join(dir, "data", "PG_VERSION"))) }, "not a PostgreSQL data directory"},
		{"wrong version", func(t *testing.T, dir, _ string) {
			check(t, os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("12\n"), 0o600))
		}, `unsupported PostgreSQL version "12", want 13 to 18`},
	}
	for _, tt := range tests {
		for _, v := range []string{"promote", "rejoin", "status", "check", "start", "stop", "demote", "notify INSTANCE VI MASTER 100"} {
			t.Run(tt.name+", "+v, func(t *testing.T) {
				dir := t.TempDir()
				settings := filepath.Join(dir, "pgnotify.toml")
				check(t, os.WriteFile(settings, []byte(strings.ReplaceAll(testSettings, "DIR", dir)), 0o600))
				check(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
				check(t, os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("15\n"), 0o600))
				tt.change(t, dir, settings)
				h := host()
				var out, errs bytes.Buffer
				h.stdout, h.stderr, h.becomeOwner = &out, &errs, fakeHost(dir).becomeOwner
				args := append([]string{"pgnotify", "--config", settings, "--state-dir", filepath.Join(dir, "state")}, strings.Fields(v)...)
				if code := run(t.Context(), args, h); code != 1 {
					t.Errorf("exit code %d, want 1", code)
				}
				if got := errs.String(); !strings.Contains(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if out.Len() > 0 {
					t.Errorf("stdout: %q", out.String())
				}
			})
		}
	}
}

// A MASTER waits for a server that can't be opened for as long as it is the newest state.
func TestAwaitServer(t *testing.T) {
	for _, overtaken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store, err := promote.OpenStore(t.TempDir(), "/srv/data")
			check(t, err)
			away := errors.New("not mounted")
			var mounted atomic.Bool
			h := fakeHost(t.TempDir())
			opens := h.openServer
			h.openServer = func(c postgres.Config) (promote.Server, string, error) {
				if !mounted.Load() {
					return nil, "", away
				}
				return opens(c)
			}
			s := &session{machine: h, store: store, settings: promote.Settings{DataDir: "/srv/data"}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
			deliver := func(state string) {
				_, err := store.Deliver(t.Context(), promote.Event{Name: "VI", State: state}, promote.Process{})
				check(t, err)
			}
			deliver(promote.Backup)
			if _, err := s.await(t.Context(), "VI", away); err == nil {
				t.Error("waits for a BACKUP")
			}
			deliver(promote.Master)
			go func() {
				time.Sleep(time.Hour)
				if overtaken {
					deliver(promote.Fault)
				}
				mounted.Store(true)
			}()
			start := time.Now()
			e, err := s.await(t.Context(), "VI", away)
			if overtaken != (e == nil) || overtaken != (err != nil) {
				t.Errorf("overtaken %t: got %v, %v", overtaken, e, err)
			}
			if took := time.Since(start); took < time.Hour || took > time.Hour+10*time.Second {
				t.Errorf("took %s, want what the server took", took)
			}
		})
	}
}

// The end of a swap that was broken off is the data owner's work: root's marker would be one that he can't read.
func TestOwnerFinishesASwap(t *testing.T) {
	dir := t.TempDir()
	settings, data, state := filepath.Join(dir, "pgnotify.toml"), filepath.Join(dir, "data"), filepath.Join(dir, "state")
	check(t, os.WriteFile(settings, []byte(strings.ReplaceAll(testSettings, "DIR", dir)), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "server.json"), []byte(`{"running":true,"timeline":1,"lsn":"0/64"}`), 0o600))
	check(t, errors.Join(os.Mkdir(state, 0o700), os.Mkdir(data+".new", 0o700)))
	store, err := promote.OpenStore(state, data)
	check(t, err)
	check(t, store.Swapping(data+".new", "cloned from n2"))
	h := fakeHost(dir)
	h.stdout, h.stderr = &bytes.Buffer{}, &bytes.Buffer{}
	owner := ""
	h.becomeOwner = func(place string) error {
		owner = place
		if _, err := os.Stat(data); err == nil {
			t.Error("the copy took its place before its owner was at work")
		}
		return nil
	}
	if code := run(t.Context(), []string{"pgnotify", "--config", settings, "--state-dir", state, "check"}, h); code != 0 {
		t.Errorf("exit code %d: %s", code, h.stderr)
	}
	if owner != data+".new" {
		t.Errorf("became the owner of %q, want the copy's", owner)
	}
	if r, err := store.Rebuild(); err != nil || r.Phase != promote.PhaseRewound {
		t.Errorf("got %+v, %v, want the copy in its place", r, err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
