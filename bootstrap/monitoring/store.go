package monitoring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb"
)

// Store is Prometheus' database and engine, and one target that is scraped into it.
type Store struct {
	DB     *tsdb.DB
	Engine *promql.Engine

	target []string // labels that the scrape gives, by name and value
	last   map[uint64]labels.Labels
}

// OpenStore opens a store in dir, for a target with these labels beside its job, broker,
// by name and value in turn.
func OpenStore(dir string, target ...string) (*Store, error) {
	options := tsdb.DefaultOptions()
	options.RetentionDuration = 0
	// Nothing is compacted: what is scraped here is minutes.
	options.MinBlockDuration, options.MaxBlockDuration = 24*time.Hour.Milliseconds(), 24*time.Hour.Milliseconds()
	db, err := tsdb.Open(dir, slog.New(slog.DiscardHandler), nil, options, nil)
	if err != nil {
		return nil, err
	}
	db.DisableCompactions()
	return &Store{DB: db, Engine: NewEngine(), target: append([]string{"job", "broker"}, target...)}, nil
}

// NewEngine is Prometheus' engine as it is without flags.
func NewEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute,
		EnableAtModifier: true, EnableNegativeOffset: true, Parser: NewParser(),
	})
}

// Close closes both.
func (s *Store) Close() error { return errors.Join(s.Engine.Close(), s.DB.Close()) }

// Append takes what a scrape has brought at that time, as Prometheus does: a series that is
// not there any more is marked as ended. Without a text the target was down.
func (s *Store) Append(ctx context.Context, at time.Time, text []byte) error {
	into := s.DB.Appender(ctx)
	now := map[uint64]labels.Labels{}
	put := func(l labels.Labels, v float64) error {
		now[l.Hash()] = l
		_, err := into.Append(0, l, at.UnixMilli(), v)
		return err
	}
	up := 0.0
	if text != nil {
		up = 1
	}
	err := errors.Join(s.parse(text, put), put(s.labels(labels.FromStrings(model.MetricNameLabel, "up")), up))
	for hash, l := range s.last {
		if _, there := now[hash]; !there {
			_, failed := into.Append(0, l, at.UnixMilli(), math.Float64frombits(value.StaleNaN))
			err = errors.Join(err, failed)
		}
	}
	if err != nil {
		return errors.Join(err, into.Rollback())
	}
	s.last = now
	return into.Commit()
}

func (s *Store) parse(text []byte, put func(labels.Labels, float64) error) error {
	if text == nil {
		return nil
	}
	p, err := textparse.New(text, "text/plain; version=0.0.4", nil, textparse.ParserOptions{})
	if err != nil {
		return err
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("what was scraped: %w", err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var l labels.Labels
		p.Labels(&l)
		_, _, v := p.Series()
		if err := put(s.labels(l), v); err != nil {
			return err
		}
	}
}

func (s *Store) labels(l labels.Labels) labels.Labels {
	b := labels.NewBuilder(l)
	for i := 0; i < len(s.target); i += 2 {
		b.Set(s.target[i], s.target[i+1])
	}
	return b.Labels()
}

// At evaluates a query at a time.
func (s *Store) At(ctx context.Context, query string, at time.Time) (promql.Vector, error) {
	q, err := s.Engine.NewInstantQuery(ctx, s.DB, nil, query, at)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	result := q.Exec(ctx)
	v, err := result.Vector()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	return append(promql.Vector(nil), v...), nil
}

// Over evaluates a query at each step of a time.
func (s *Store) Over(ctx context.Context, query string, from, to time.Time, step time.Duration) (promql.Matrix, error) {
	q, err := s.Engine.NewRangeQuery(ctx, s.DB, nil, query, from, to, step)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	m, err := q.Exec(ctx).Matrix()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	kept := make(promql.Matrix, 0, len(m))
	for _, series := range m {
		series.Floats = append([]promql.FPoint(nil), series.Floats...)
		kept = append(kept, series)
	}
	return kept, nil
}
