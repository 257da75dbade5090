package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Target is a server to follow.
type Target struct {
	Host        string            // a node's own name or address, never a virtual one
	Port        int               // 0 = 5432
	User        string            // role that streams
	Application string            // application_name: the name of our node
	Slot        string            // physical slot at the target, "" = none
	Password    string            // "" = none, or in PassFile
	PassFile    string            // file in libpq's format that is copied instead, "" = none
	Timeline    Timeline          // that the stream must have reached for Follow to return, 0 = any
	Options     map[string]string // further libpq keywords: sslmode, connect_timeout …; none of the above
}

// conninfo makes primary_conninfo; pass says where the password file stands, "" if there is none.
func (t Target) conninfo(pass string) (string, error) {
	if t.Host == "" {
		return "", errors.New("want a host")
	}
	all := []struct{ key, value string }{{"host", t.Host}, {"port", strconv.Itoa(t.port())}, {"user", t.User}, {"application_name", t.Application}, {"passfile", pass}}
	for _, k := range slices.Sorted(maps.Keys(t.Options)) {
		switch k {
		case "host", "hostaddr", "port", "user", "application_name", "passfile", "password", "service", "target_session_attrs":
			return "", fmt.Errorf("connection option %s is not free to choose", k)
		}
		all = append(all, struct{ key, value string }{k, t.Options[k]})
	}
	var b strings.Builder
	for _, kv := range all {
		if kv.value != "" {
			if strings.ContainsAny(kv.value, "\n\r\x00") {
				return "", fmt.Errorf("%s holds a line break or a zero byte", kv.key)
			}
			b.WriteString(kv.key + "=" + quoteConninfo(kv.value) + " ")
		}
	}
	return strings.TrimSpace(b.String()), nil
}

func (t Target) port() int {
	if t.Port == 0 {
		return 5432
	}
	return t.Port
}

// passContent makes the password file, nil if there is none ("34.16 The Password File" in the manual).
func (t Target) passContent() ([]byte, error) {
	switch {
	case t.Password != "":
		if strings.ContainsAny(t.Password, "\n\r\x00") {
			return nil, errors.New("password holds a line break or a zero byte")
		}
		return []byte("*:*:*:*:" + strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(t.Password) + "\n"), nil
	case t.PassFile != "":
		b, err := os.ReadFile(t.PassFile)
		if err != nil {
			return nil, fmt.Errorf("read the password file: %w", err)
		}
		return b, nil
	}
	return nil, nil
}

// WriteFollow writes what Follow writes, durably: the upstream, its password, and the hold, since who follows acknowledges nothing. restore_command is
// the user's own again. A running server is not told.
func (s *Server) WriteFollow(t Target) error {
	if _, err := s.writeFollow(t); err != nil {
		return fmt.Errorf("write the upstream: %w", err)
	}
	return nil
}

func (s *Server) writeFollow(t Target) (change, error) {
	pass, err := t.passContent()
	if err != nil {
		return change{}, err
	}
	place := ""
	if pass != nil {
		place = s.passPath()
	}
	ci, err := t.conninfo(place)
	if err != nil {
		return change{}, err
	}
	c := change{
		set: map[string]string{
			"primary_conninfo": ci, "primary_slot_name": t.Slot, "recovery_target_timeline": "latest", "synchronous_standby_names": holdNames,
		},
		drop: []string{"restore_command"},
		before: func() error {
			if pass == nil {
				return s.removePass()
			}
			return s.writeFile(s.passPath(), pass, 0o600)
		},
	}
	return c, s.writeManaged(c)
}

// Follow makes the standby stream from the target, now and after restarts, and returns once it streams from there; the state that it is in otherwise is
// in the error when ctx ends. A standby that has diverged may stream for a moment, on its old timeline: name the one that the target writes. A stopped server is only written to. A primary is refused.
func (d *Driver) Follow(ctx context.Context, t Target) error {
	ctx, cancel := withDefaultTimeout(ctx, applyTimeout)
	defer cancel()
	began := time.Now()
	if err := d.follow(ctx, t); err != nil {
		return fmt.Errorf("follow %s port %d: %w", t.Host, t.port(), err)
	}
	d.s.log.Debug("following", "host", t.Host, "port", t.port(), "took", time.Since(began))
	return nil
}

func (d *Driver) follow(ctx context.Context, t Target) error {
	life, err := d.s.Life()
	if err != nil {
		return err
	}
	if life == (Life{}) {
		if _, err := d.s.writeFollow(t); err != nil {
			return err
		}
		return d.s.winsError()
	}
	return d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		v, err := look(q, conn)
		if err != nil {
			return err
		}
		if !v.recovery {
			return errors.New("it is a primary")
		}
		c, err := d.s.writeFollow(t)
		if err != nil {
			return err
		}
		old := 0 // the walreceiver that must go
		for _, n := range []string{"primary_conninfo", "primary_slot_name"} {
			if v.settings[n] != c.set[n] {
				old = v.receiver
			}
		}
		if err := d.s.winsError(); err != nil {
			return err
		}
		if err := d.s.Reload(ctx); err != nil {
			return err
		}
		err = poll(ctx, func() (bool, string, error) {
			u, pid, err := upstream(q, conn)
			if err != nil {
				return false, "", err
			}
			if u.Host == t.Host && u.Port == t.port() && u.Slot == t.Slot && u.Timeline >= t.Timeline {
				switch u.Status {
				case "streaming":
					return pid != old, "the walreceiver has the settings of before", nil
				case connecting:
					return false, "the target has not sent anything yet: no such slot, or WAL or a timeline that it does not have?", nil
				}
			}
			if v, err = look(q, conn); err != nil {
				return false, "", err
			}
			switch {
			case !d.s.shows(v, c.set):
				return false, "the reload is not seen yet" + d.whyNotShown(v, c.set), nil
			case u == (Upstream{}):
				return false, fmt.Sprintf("no walreceiver runs, the startup process waits in %q, replayed %s", v.wait, v.replay), nil
			}
			return false, fmt.Sprintf("walreceiver is %s, host %q port %d slot %q timeline %d", u.Status, u.Host, u.Port, u.Slot, u.Timeline), nil
		})
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w%s", err, d.s.fileErrors(conn))
		}
		return err
	})
}

// connecting is the status of a walreceiver that calls itself streaming, and to which nothing shows that it gets anything.
const connecting = "connecting"

// receiverStatus is the status of walreceiver u. It calls itself streaming once it is connected, before it has asked for anything, and so does every
// attempt at a slot or at WAL that is not there. A message has come if its two times differ. Where there is nothing to send none comes for long: one that
// waits in its main loop has been let in; but so has, for a moment right after it began, one that is then told that its WAL is gone.
const receiverStatus = `CASE WHEN u.status = 'streaming' AND u.last_msg_send_time = u.last_msg_receipt_time AND NOT EXISTS (
       SELECT FROM pg_stat_activity AS a WHERE a.pid = u.pid AND a.wait_event = 'WalReceiverMain' AND a.backend_start < clock_timestamp() - interval '0.5 s')
     THEN '` + connecting + `' ELSE u.status END`

// upstream asks what the walreceiver is connected to, and which process it is; the zero value if none runs.
func upstream(ctx context.Context, conn *pgx.Conn) (u Upstream, pid int, err error) {
	var status, host, slot *string
	var port, tli *int32
	err = conn.QueryRow(ctx, "SELECT u.pid, "+receiverStatus+", sender_host, sender_port, slot_name, received_tli FROM pg_stat_wal_receiver AS u").
		Scan(&pid, &status, &host, &port, &slot, &tli)
	if errors.Is(err, pgx.ErrNoRows) {
		return u, 0, nil
	}
	if err != nil {
		return u, 0, err
	}
	if u.Status = "hidden"; status != nil { // the role may not see it
		u.Status = *status
	}
	if host != nil {
		u.Host = *host
	}
	if port != nil {
		u.Port = int(*port)
	}
	if slot != nil {
		u.Slot = *slot
	}
	if tli != nil && *tli > 0 {
		u.Timeline = Timeline(*tli)
	}
	return u, pid, nil
}
