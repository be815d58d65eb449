package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// res is one line of the answer: a JSON object.
type res map[string]any

// ms is a duration in milliseconds.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// r3 rounds to five significant digits, which is more than a shared machine can tell apart.
func r3(x float64) float64 {
	v, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 5, 64), 64)
	return v
}

// pct puts the distribution of l, in milliseconds, into out under name.
func pct(out res, name string, l []time.Duration) {
	if len(l) == 0 {
		return
	}
	sort.Slice(l, func(i, j int) bool { return l[i] < l[j] })
	at := func(p float64) float64 {
		i := int(p*float64(len(l))+0.5) - 1
		if i < 0 {
			i = 0
		}
		if i >= len(l) {
			i = len(l) - 1
		}
		return ms(l[i])
	}
	var sum time.Duration
	for _, x := range l {
		sum += x
	}
	out[name] = res{"n": len(l), "min": ms(l[0]), "mean": r3(ms(sum / time.Duration(len(l)))), "p50": at(.5), "p90": at(.9), "p99": at(.99), "p999": at(.999), "max": ms(l[len(l)-1])}
}

// emit prints the result as one JSON line and appends it to -out.
func emit(out res) {
	out["mode"] = *fMode
	out["label"] = *fLabel
	out["c"] = *fC
	out["url"] = *fURL
	out["at"] = time.Now().UTC().Format(time.RFC3339)
	b, _ := json.Marshal(out)
	fmt.Println(string(b))
	if *fOut != "" {
		f, err := os.OpenFile(*fOut, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0644)
		if err == nil {
			f.Write(append(b, '\n'))
			f.Close()
		}
	}
}

var errMu sync.Mutex

var errSample = map[string]int{}

var errCount atomic.Int64

// noteErr counts an error and keeps its text, cut, among the first twenty different ones.
func noteErr(op string, err error) {
	errCount.Add(1)
	s := op + ": " + err.Error()
	if len(s) > 160 {
		s = s[:160]
	}
	errMu.Lock()
	if len(errSample) < 20 || errSample[s] > 0 {
		errSample[s]++
	}
	errMu.Unlock()
}

func errsOut(out res) {
	out["errors"] = errCount.Load()
	if len(errSample) > 0 {
		out["error_sample"] = errSample
	}
}

// lat collects latencies, a slice for each worker so that recording one takes no lock.
type lat struct{ l [][]time.Duration }

func newLat(c int) *lat { return &lat{make([][]time.Duration, c)} }

func (x *lat) add(w int, d time.Duration) { x.l[w] = append(x.l[w], d) }

func (x *lat) all() (o []time.Duration) {
	for _, l := range x.l {
		o = append(o, l...)
	}
	return
}
