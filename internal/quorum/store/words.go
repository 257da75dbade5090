package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"pgvrrp/internal/quorum/record"
)

// words are what the voter said and must keep to, as they are on disk.
type words struct {
	mu               sync.RWMutex
	sealed, promised map[string]uint64
	longest          time.Duration
}

func (w *words) load(tx *bbolt.Tx) error {
	var err error
	if w.sealed, err = loadEpochs(tx.Bucket(sealedBucket)); err != nil {
		return err
	}
	if w.promised, err = loadEpochs(tx.Bucket(promisedBucket)); err != nil {
		return err
	}
	longest, err := getUint(tx.Bucket(metaBucket), longestKey)
	w.longest = time.Duration(longest)
	return err
}

func loadEpochs(b *bbolt.Bucket) (map[string]uint64, error) {
	all := map[string]uint64{}
	err := b.ForEach(func(k, _ []byte) error {
		n, err := getUint(b, k)
		all[string(k)] = n
		return err
	})
	return all, err
}

// Sealed is the epoch up to which this voter renews nothing of the resource any more; 0: none.
func (s *Store) Sealed(resource string) uint64 {
	s.words.mu.RLock()
	defer s.words.mu.RUnlock()
	return s.words.sealed[resource]
}

// PutSealed writes that every epoch of the resource up to epoch is sealed. A lower one than before changes nothing.
func (s *Store) PutSealed(resource string, epoch uint64) error {
	return s.putEpoch("seal", sealedBucket, s.words.sealed, resource, epoch)
}

// Promised is the epoch below which this data node acknowledges no lease of the resource any more; 0: none.
func (s *Store) Promised(resource string) uint64 {
	s.words.mu.RLock()
	defer s.words.mu.RUnlock()
	return s.words.promised[resource]
}

// PutPromised writes the promise of epoch for the resource. A lower one than before changes nothing.
func (s *Store) PutPromised(resource string, epoch uint64) error {
	return s.putEpoch("promise", promisedBucket, s.words.promised, resource, epoch)
}

func (s *Store) putEpoch(act string, bucket []byte, words map[string]uint64, resource string, epoch uint64) error {
	s.words.mu.RLock()
	done := words[resource] >= epoch
	s.words.mu.RUnlock()
	if done {
		return nil
	}
	err := s.update(fmt.Sprintf("%s epoch %d of %s", act, epoch, resource), func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if was, err := getUint(b, []byte(resource)); err != nil || was >= epoch {
			return err
		}
		return putUint(b, []byte(resource), epoch)
	})
	if err != nil {
		return err
	}
	s.words.mu.Lock()
	defer s.words.mu.Unlock()
	words[resource] = max(words[resource], epoch)
	return nil
}

// Longest is the longest hold that this voter ever acknowledged.
func (s *Store) Longest() time.Duration {
	s.words.mu.RLock()
	defer s.words.mu.RUnlock()
	return s.words.longest
}

// PutLongest writes it. A shorter one than before changes nothing.
func (s *Store) PutLongest(d time.Duration) error {
	if d <= s.Longest() {
		return nil
	}
	err := s.update(fmt.Sprintf("write the longest hold %v", d), func(tx *bbolt.Tx) error {
		m := tx.Bucket(metaBucket)
		if was, err := getUint(m, longestKey); err != nil || time.Duration(was) >= d {
			return err
		}
		return putUint(m, longestKey, uint64(d))
	})
	if err != nil {
		return err
	}
	s.words.mu.Lock()
	defer s.words.mu.Unlock()
	s.words.longest = max(s.words.longest, d)
	return nil
}

// PutWord writes one word more, which says nothing but that it was given.
func (s *Store) PutWord(act string) error { return s.update(act, func(*bbolt.Tx) error { return nil }) }

// maxSeen is how many incarnations of one peer are remembered: those admitted last.
const maxSeen = 8

func bootOf(b []byte) record.Boot { return record.Boot(binary.BigEndian.Uint64(b)) }

func (s *Store) loadSeen(tx *bbolt.Tx) error {
	s.seen = map[string][]Seen{}
	b := tx.Bucket(seenBucket)
	return b.ForEach(func(k, _ []byte) error {
		v, err := get(b, k)
		if err != nil {
			return err
		}
		all, err := decodeSeen(v)
		if err != nil {
			return fmt.Errorf("peer %q: %w", k, err)
		}
		s.seen[string(k)] = all
		return nil
	})
}

// OutlivedError says that a directory has forgotten what its voter said: it is an old copy, or another run has it.
type OutlivedError struct {
	Peer string
	Why  string
}

// Error tells what to do.
func (e *OutlivedError) Error() string {
	return fmt.Sprintf("admit voter %s: %s; move its %s away and start vrrpd there again", e.Peer, e.Why, fileName)
}

// Admit accepts a run of peer's state directory if it is a later start than the one seen last, or the same, or if the directory
// was never seen; it is on disk when Admit returns. A directory that was set back has forgotten what it said: it is an earlier start, or
// another of the same number, or has given fewer words than it told: an OutlivedError.
func (s *Store) Admit(peer string, x Seen) error {
	if peer == "" || x.Incarnation == "" || len(x.Incarnation) > 255 || x.Starts == 0 || x.Boot == 0 {
		return fmt.Errorf("admit voter %q: its identity is incomplete", peer)
	}
	s.admission.Lock()
	defer s.admission.Unlock()
	all := s.seen[peer]
	k := slices.IndexFunc(all, func(o Seen) bool { return o.Incarnation == x.Incarnation })
	if k >= 0 {
		outlived := func(format string, args ...any) error {
			return &OutlivedError{Peer: peer, Why: fmt.Sprintf(format, args...)}
		}
		switch o := s.most(peer, all[k]); {
		case x.Starts == o.Starts && x.Boot == o.Boot:
			return nil
		case x.Starts < o.Starts:
			return outlived("its state directory was restored from a backup (it is at start %d, and was seen at start %d)", x.Starts, o.Starts)
		case x.Starts == o.Starts:
			return outlived("two runs say that they are start %d of the same state directory: it was copied, or restored from a backup", x.Starts)
		case x.Words < o.Words:
			return outlived("its state directory was restored from a backup (it begins with %d words, and told of %d)", x.Words, o.Words)
		}
	}
	next := make([]Seen, 0, len(all)+1)
	for _, o := range all {
		if o.Incarnation != x.Incarnation {
			next = append(next, o)
		}
	}
	next = append(next, x)
	next = next[max(0, len(next)-maxSeen):]
	err := s.write("remember voter "+peer, func(tx *bbolt.Tx) error {
		return put(tx.Bucket(seenBucket), []byte(peer), encodeSeen(next))
	})
	if err != nil {
		return err
	}
	s.seen[peer] = next
	return nil
}

// told is what Heard notes: the words of one run.
type told struct {
	boot  record.Boot
	words uint64
}

// Heard notes that a run of peer, which was admitted, has given so many words. It never waits for the disk: KeepHeard writes it.
func (s *Store) Heard(peer string, boot record.Boot, words uint64) {
	s.hearing.Lock()
	defer s.hearing.Unlock()
	if t := s.told[peer]; t.boot != boot || t.words < words {
		s.told[peer] = told{boot, words}
	}
}

// Told is the most words that an admitted run of peer has told of; 0: none was admitted.
func (s *Store) Told(peer string) uint64 {
	s.admission.Lock()
	defer s.admission.Unlock()
	all := s.seen[peer]
	if len(all) == 0 {
		return 0
	}
	return s.most(peer, all[len(all)-1]).Words
}

// most is what is remembered of o with what Heard noted since.
func (s *Store) most(peer string, o Seen) Seen {
	s.hearing.Lock()
	defer s.hearing.Unlock()
	if t := s.told[peer]; t.boot == o.Boot {
		o.Words = max(o.Words, t.words)
	}
	return o
}

// KeepHeard has on disk what Heard noted. It writes only if that is news.
func (s *Store) KeepHeard() error {
	s.admission.Lock()
	defer s.admission.Unlock()
	news := map[string][]Seen{}
	for peer, all := range s.seen {
		for k, o := range all {
			if m := s.most(peer, o); m != o {
				all = slices.Clone(all)
				all[k] = m
				news[peer] = all
			}
		}
	}
	if len(news) == 0 {
		return nil
	}
	err := s.write("remember the words of voters", func(tx *bbolt.Tx) error {
		for peer, all := range news {
			if err := put(tx.Bucket(seenBucket), []byte(peer), encodeSeen(all)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		maps.Copy(s.seen, news)
	}
	return err
}
