package conf

import (
	"strconv"
	"strings"
	"time"
)

// fileDraft is a track_file on its way.
type fileDraft struct {
	TrackFile
	at   origin
	used bool
}

func fileKeywords() [][]keyword[fileDraft] {
	return [][]keyword[fileDraft]{{
		{name: "file", need: 1, max: 1, set: func(s *statement, d *fileDraft) {
			switch w := s.arg(0); {
			case d.Path != "":
				s.bad(w, "file is given already, expected one file line; ignored")
			case w.text == "":
				s.bad(w, "empty file name, expected one; ignored")
			default:
				if !strings.HasPrefix(w.text, "/") {
					s.report(Lint, w, "not an absolute path, expected one that starts with /; it is taken from the daemon's working directory")
				}
				d.Path = w.text
			}
		}},
		{name: "weight", need: 1, max: 2, set: func(s *statement, d *fileDraft) { weightLine(s, 254, &d.Weight, &d.Reverse) }},
		{name: "init_file", max: 2, set: func(s *statement, d *fileDraft) {
			d.Init = true
			for _, w := range s.words[1:] {
				if w.text == "overwrite" {
					d.Overwrite = true
					continue
				}
				v, err := strconv.ParseInt(w.text, 10, 32)
				switch {
				case err != nil:
					s.bad(w, "unknown option, expected a whole number or overwrite; ignored")
					continue
				case v < -254 || v > 254:
					s.bad(w, "out of range, expected a whole number from -254 to 254; using it all the same")
				}
				d.InitValue = int(v)
			}
		}},

		// What follows is ours.
		{name: "missing", need: 1, max: 1, set: func(s *statement, d *fileDraft) {
			s.p.cfg.Extended = true
			switch w := s.arg(0); w.text {
			case "fail":
				d.MissingFails = true
			case "zero":
				d.MissingFails = false
			default:
				s.bad(w, "unknown value, expected fail or zero")
			}
		}},
	}}
}

// weightLine reads weight W [reverse] of a block. A weight that can't be used leaves the default.
func weightLine(s *statement, limit int64, weight *int, reverse *bool) {
	if v, ok := s.number(s.arg(0), -limit, limit, "ignored"); ok {
		*weight = int(v)
	}
	switch w := s.arg(1); w.text {
	case "":
	case "reverse":
		*reverse = true
	default:
		s.bad(w, "unknown option, expected reverse or nothing; ignored")
	}
}

// beginFile parses a track_file block.
func beginFile(s *statement, p *parser) {
	d := &fileDraft{at: s.origin(), TrackFile: TrackFile{Pos: s.words[0].pos, Name: s.text(0), Weight: 1}}
	if s.name() == "vrrp_track_file" {
		s.report(Lint, word{pos: s.words[0].pos}, "old name, expected track_file")
	}
	if other := p.fileNames[d.Name]; other != nil {
		s.bad(s.arg(0), "track_file of this name exists already (at %s), expected a name of its own; this one is ignored", other.At())
		p.skipBlock()
		return
	}
	parseBlock(p, s, p.file, d)
	if d.Path == "" {
		s.bad(s.arg(0), "no file in this track_file, expected the keyword file; what tracks it counts as failed")
		return
	}
	p.files = append(p.files, d)
	p.fileNames[d.Name] = d
}

// processDraft is a vrrp_track_process on its way.
type processDraft struct {
	TrackProcess
	at          origin
	used        bool
	weightGiven bool
	matchGiven  bool
}

func processKeywords() [][]keyword[processDraft] {
	delay := func(fork, terminate bool) func(s *statement, d *processDraft) {
		return func(s *statement, d *processDraft) {
			v, ok := s.seconds(s.arg(0), time.Microsecond, 3600*time.Second, "ignored")
			if !ok {
				return
			}
			if fork {
				d.ForkDelay = v
			}
			if terminate {
				d.TerminateDelay = v
			}
		}
	}
	return [][]keyword[processDraft]{{
		{name: "process", need: 1, max: -1, set: func(s *statement, d *processDraft) {
			switch w := s.arg(0); {
			case len(d.Process) > 0:
				s.bad(w, "process is given already, expected one process line; ignored")
			case w.text == "":
				s.bad(w, "empty process name, expected one; ignored")
			default:
				for _, w := range s.words[1:] {
					d.Process = append(d.Process, w.text)
				}
			}
		}},
		{name: "param_match", max: 1, set: func(s *statement, d *processDraft) {
			switch w := s.arg(0); w.text {
			case "":
				d.Match = MatchExact
			case "initial":
				d.Match = MatchInitial
			case "partial":
				d.Match = MatchPartial
			default:
				s.bad(w, "unknown way to match, expected initial, partial or nothing; ignored")
				return
			}
			d.matchGiven = true
		}},
		{name: "weight", need: 1, max: 2, set: func(s *statement, d *processDraft) {
			if d.weightGiven && d.Weight != 0 {
				s.bad(s.arg(0), "weight is given already, expected one weight line; ignored")
				return
			}
			d.weightGiven = true
			weightLine(s, 254, &d.Weight, &d.Reverse)
		}},
		{name: "quorum", need: 1, max: 1, set: func(s *statement, d *processDraft) {
			v, ok := s.number(s.arg(0), 1, 65535, "ignored")
			switch {
			case !ok:
			case d.QuorumMax >= 0 && int(v) > d.QuorumMax:
				s.bad(s.arg(0), "more than quorum_max (%d), expected at most that; ignored", d.QuorumMax)
			default:
				d.Quorum = int(v)
			}
		}},
		{name: "quorum_max", need: 1, max: 1, set: func(s *statement, d *processDraft) {
			v, ok := s.number(s.arg(0), 0, 65535, "ignored")
			switch {
			case !ok:
			case d.Quorum > 1 && int(v) < d.Quorum:
				s.bad(s.arg(0), "less than quorum (%d), expected at least that; ignored", d.Quorum)
			default:
				// No such process at all is wanted with 0.
				d.QuorumMax = int(v)
				d.Quorum = min(max(d.Quorum, 1), d.QuorumMax)
			}
		}},
		{name: "delay", need: 1, max: 1, set: delay(true, true)},
		{name: "fork_delay", need: 1, max: 1, set: delay(true, false)},
		{name: "terminate_delay", need: 1, max: 1, set: delay(false, true)},
		{name: "full_command", max: 0, set: plain(func(d *processDraft) { d.FullCommand = true })},
	}}
}

// beginProcess parses a vrrp_track_process block.
func beginProcess(s *statement, p *parser) {
	d := &processDraft{at: s.origin(), TrackProcess: TrackProcess{Pos: s.words[0].pos, Name: s.text(0), Quorum: 1, QuorumMax: -1}}
	if other := p.processNames[d.Name]; other != nil {
		s.bad(s.arg(0), "vrrp_track_process of this name exists already (at %s), expected a name of its own; this one is ignored", other.At())
		p.skipBlock()
		return
	}
	parseBlock(p, s, p.process, d)
	if len(d.Process) == 0 {
		s.bad(s.arg(0), "no process in this vrrp_track_process, expected the keyword process; what tracks it counts as failed")
		return
	}
	// Parameters are only in the command line, which says more than the name of 15 characters.
	if len(d.Process) > 1 && !d.matchGiven {
		d.Match = MatchExact
	}
	d.FullCommand = d.FullCommand || d.Match != MatchName
	if !d.FullCommand && len(d.Process[0]) > maxComm {
		p.report(Lint, d.at, d.Process[0], "name is longer than %d characters, which is all that the kernel keeps, expected full_command with it: it never fits", maxComm)
	}
	p.processes = append(p.processes, d)
	p.processNames[d.Name] = d
}

// maxComm is how much of a name /proc/PID/comm holds.
const maxComm = 15
