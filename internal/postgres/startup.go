package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Effort is what the startup process of a server has done since it began: whoever compares two sees whether it gets on. The zero value is none.
type Effort struct {
	Life  Life          // of the postmaster
	PID   int           // of the startup process
	Idle  bool          // it sleeps, without a process of its own such as a restore_command at work
	CPU   time.Duration // processor time; one that waits for WAL takes a little, since it looks for it again and again
	Moved string        // bytes read from disk and written to it, as proc_pid_io(5) tells them
}

// Effort looks, without a session, at the startup process of a server that is not consistent yet and so takes none. Any other server gives the zero
// value.
func (s *Server) Effort() (Effort, error) {
	e, err := s.effort()
	if err != nil {
		return Effort{}, fmt.Errorf("look at the startup process: %w", err)
	}
	return e, nil
}

func (s *Server) effort() (Effort, error) {
	f, err := s.readPIDFile()
	if errors.Is(err, fs.ErrNotExist) || err == nil && f.status != "starting" {
		return Effort{}, nil
	}
	if err != nil {
		return Effort{}, err
	}
	v, err := s.judge(f)
	if err != nil || v.life == (Life{}) {
		return Effort{}, err
	}
	all, err := s.children(v.life.PID)
	if err != nil {
		return Effort{}, err
	}
	e := Effort{Life: v.life}
	for _, p := range all {
		if !strings.Contains(p.title, ": startup") {
			continue
		}
		io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.pid))
		if err != nil {
			return Effort{}, err
		}
		for line := range strings.Lines(string(io)) {
			if strings.HasPrefix(line, "read_bytes:") || strings.HasPrefix(line, "write_bytes:") {
				e.Moved += strings.TrimSpace(line) + " "
			}
		}
		e.PID, e.Idle, e.CPU = p.pid, p.asleep, time.Duration(p.cpu)*(time.Second/userHZ)
	}
	if e.PID == 0 {
		return Effort{}, nil
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", e.PID, e.PID))
	if err != nil {
		return Effort{}, err
	}
	e.Idle = e.Idle && len(children) == 0
	return e, nil
}
