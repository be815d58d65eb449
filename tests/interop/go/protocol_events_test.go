package interop

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/events"
	"code.cloudfoundry.org/bbs/models"
	"code.cloudfoundry.org/cfhttp/v2"
	"code.cloudfoundry.org/tlsconfig"
	"github.com/gogo/protobuf/proto"
	"github.com/tedsuo/rata"
	"github.com/vito/go-sse/sse"
)

// told is what a source gave: an event, or why there will be none.
type told struct {
	event models.Event
	err   error
}

// listen reads a source until it ends, in the background.
func listen(t *testing.T, source events.EventSource) <-chan told {
	t.Helper()
	heard := make(chan told, 1024)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			event, err := source.Next()
			heard <- told{event, err}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		source.Close() // it may have ended by itself
		<-ended
	})
	return heard
}

// nextOf gives the next event of a task.
func nextOf(t *testing.T, heard <-chan told, guid string) models.Event {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case next := <-heard:
			if next.err != nil {
				t.Fatalf("the source ended: %v", next.err)
			}
			if next.event.Key() == guid {
				return next.event
			}
		case <-late:
			t.Fatalf("no event of %s within %s", guid, patience)
		}
	}
}

// ask has whoever runs the tests do something to the board.
func ask(word string) {
	fmt.Printf("\nboard: %s\n", word)
}

// httpClient is one for routes that the published client does not use any more.
func httpClient(t *testing.T) *http.Client {
	t.Helper()
	options := []cfhttp.Option{cfhttp.WithStreamingDefaults()}
	if directory := certificates(); directory != "" {
		cert, key := certificateOf("client")
		config, err := tlsconfig.Build(tlsconfig.WithInternalServiceDefaults(), tlsconfig.WithIdentityFromFile(cert, key)).
			Client(tlsconfig.WithAuthorityFromFile(directory + "/ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		options = append(options, cfhttp.WithTLSConfig(config))
	}
	return cfhttp.NewClient(options...)
}

// subscribeOld subscribes to the deprecated stream, as older clients do.
func subscribeOld(t *testing.T) events.EventSource {
	t.Helper()
	requests := rata.NewRequestGenerator(boardURL(t), bbs.Routes)
	config := sse.Config{
		Client:      httpClient(t),
		RetryParams: sse.RetryParams{RetryInterval: 100 * time.Millisecond, MaxRetries: 1},
		RequestCreator: func() *http.Request {
			request, err := requests.CreateRequest(bbs.TaskEventStreamRoute_r0, nil, nil)
			if err != nil {
				panic(err)
			}
			return request
		},
	}
	raw, err := config.Connect()
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	return events.NewEventSource(raw)
}

func subscribe(t *testing.T, url string) events.EventSource {
	t.Helper()
	// As many retries, one a second, as a board may need to start again on a busy machine.
	source, err := newClientWith(t, url, "client", 60).SubscribeToTaskEvents(logger)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	return source
}

// liveAndLeave takes a task through its whole life.
func liveAndLeave(t *testing.T, guid string, definition *models.TaskDefinition) {
	t.Helper()
	client, cell := newClient(t), newClientAs(t, "cell")
	for name, step := range []func() error{
		func() error { return client.DesireTask(logger, traceID, guid, unique("domain"), definition) },
		func() error { _, err := cell.StartTask(logger, traceID, guid, ownCell); return err },
		func() error { return cell.CompleteTask(logger, traceID, guid, ownCell, false, "", "the result") },
		func() error { return client.ResolvingTask(logger, traceID, guid) },
		func() error { return client.DeleteTask(logger, traceID, guid) },
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d of %s: %v", name, guid, err)
		}
	}
}

var wholeLife = []string{
	"created Pending", "changed Pending to Running", "changed Running to Completed", "changed Completed to Resolving",
	"removed Resolving",
}

// TestEventsOfALife: the five events of a task, in order, with the whole task in each, in both forms of the stream.
func TestEventsOfALife(t *testing.T) {
	definition := richDefinition()
	for name, source := range map[string]events.EventSource{
		"current": subscribe(t, boardURL(t)), "deprecated": subscribeOld(t),
	} {
		t.Run(name, func(t *testing.T) {
			heard, guid := listen(t, source), unique("lived")
			liveAndLeave(t, guid, definition)
			var before *models.Task
			for _, want := range wholeLife {
				event := nextOf(t, heard, guid)
				if text := describe(event); text != want {
					t.Fatalf("got %s, want %s", text, want)
				}
				var after *models.Task
				switch event := event.(type) {
				case *models.TaskCreatedEvent:
					after = event.Task
				case *models.TaskChangedEvent:
					after = event.After
					if !event.Before.Equal(before) {
						t.Fatalf("the task before is %+v, and was %+v", event.Before, before)
					}
				case *models.TaskRemovedEvent:
					after = event.Task
					if !after.Equal(before) {
						t.Fatalf("the task removed is %+v, and was %+v", after, before)
					}
				}
				requireForm(t, after.TaskDefinition, definition, name == "deprecated")
				before = after
			}
			if before.Result != "the result" {
				t.Fatalf("the task ended as %+v", before)
			}
		})
	}
}

// requireForm demands a definition as it was desired, or rewritten for older clients (board-api.md 2.3).
func requireForm(t *testing.T, got, desired *models.TaskDefinition, old bool) {
	t.Helper()
	want := proto.Clone(desired).(*models.TaskDefinition)
	if old {
		want.ImageLayers = nil
		want.CachedDependencies = append([]*models.CachedDependency{{
			Name: "shared", From: "https://host/layer.tgz", To: "/layer", ChecksumAlgorithm: "sha256",
			ChecksumValue: "digest", CacheKey: "sha256:digest",
		}}, want.CachedDependencies...)
	}
	if !got.Equal(want) {
		t.Fatalf("the definition is %+v, want %+v", got, want)
	}
}

// TestOlderReads: the deprecated routes give tasks in the older form.
func TestOlderReads(t *testing.T) {
	client, guid, domain, definition := newClient(t), unique("older"), unique("domain"), richDefinition()
	desire(t, client, guid, domain, definition)
	call := func(route string, request, response proto.Message) {
		t.Helper()
		body, err := proto.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		message, err := rata.NewRequestGenerator(boardURL(t), bbs.Routes).CreateRequest(route, nil, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := httpClient(t).Do(message)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		content, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK || proto.Unmarshal(content, response) != nil {
			t.Fatalf("%s answers %s, %q, error %v", route, answer.Status, content, err)
		}
	}
	var one models.TaskResponse
	call(bbs.TaskByGuidRoute_r2, &models.TaskByGuidRequest{TaskGuid: guid}, &one)
	requireForm(t, one.Task.TaskDefinition, definition, true)
	var many models.TasksResponse
	call(bbs.TasksRoute_r2, &models.TasksRequest{Domain: domain}, &many)
	if len(many.Tasks) != 1 {
		t.Fatalf("%d tasks in the domain", len(many.Tasks))
	}
	requireForm(t, many.Tasks[0].TaskDefinition, definition, true)
	requireForm(t, get(t, guid).TaskDefinition, definition, false)
}

// relay stands between a client and the board, notes what the client sends, and can cut what is open.
type relay struct {
	url   string
	lock  sync.Mutex
	sent  bytes.Buffer
	pairs []net.Conn
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	scheme, address, _ := strings.Cut(boardURL(t), "://")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	made := &relay{url: scheme + "://" + listener.Addr().String()}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // closed by the end of the test
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				continue
			}
			made.lock.Lock()
			made.pairs = append(made.pairs, near, far)
			made.lock.Unlock()
			open.Go(func() { io.Copy(io.MultiWriter(far, made), near); far.Close() })
			open.Go(func() { io.Copy(near, far); near.Close() })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		made.cut()
		open.Wait()
	})
	return made
}

// Write notes what a client sent.
func (r *relay) Write(data []byte) (int, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	return r.sent.Write(data)
}

func (r *relay) requests() string {
	r.lock.Lock()
	defer r.lock.Unlock()
	return r.sent.String()
}

func (r *relay) cut() {
	r.lock.Lock()
	defer r.lock.Unlock()
	for _, connection := range r.pairs {
		connection.Close()
	}
	r.pairs = nil
}

// TestReconnectAfterACut: the client comes again by itself, with the id of the last event it had.
func TestReconnectAfterACut(t *testing.T) {
	between := newRelay(t)
	heard, guid := listen(t, subscribe(t, between.url)), unique("seen")
	liveAndLeave(t, guid, longDefinition())
	for _, want := range wholeLife {
		if text := describe(nextOf(t, heard, guid)); text != want {
			t.Fatalf("got %s, want %s", text, want)
		}
	}
	between.cut()
	requireAgain(t, heard)
	if certificates() == "" && !strings.Contains(between.requests(), "Last-Event-Id: 4\r\n") {
		t.Fatalf("the client did not say which event was its last: %s", between.requests())
	}
}

// requireAgain demands that events come, some time after the stream was cut: those in between are lost.
func requireAgain(t *testing.T, heard <-chan told) {
	t.Helper()
	client, deadline := newClient(t), time.Now().Add(patience)
	for time.Now().Before(deadline) {
		guid := unique("again")
		if err := client.DesireTask(logger, traceID, guid, unique("domain"), longDefinition()); err != nil {
			time.Sleep(50 * time.Millisecond) // the board is not back yet
			continue
		}
		remove(t, client, guid)
		select {
		case next := <-heard:
			if next.err != nil {
				t.Fatalf("the source ended: %v", next.err)
			}
			return
		case <-time.After(50 * time.Millisecond): // the client has not come back yet
		}
	}
	t.Fatalf("no event came within %s", patience)
}

// TestReconnectAfterACrash: the board is killed and started again, and the client's stream goes on.
func TestReconnectAfterACrash(t *testing.T) {
	heard, guid := listen(t, subscribe(t, boardURL(t))), unique("seen")
	client := newClient(t)
	if err := client.DesireTask(logger, traceID, guid, unique("domain"), longDefinition()); err != nil {
		t.Fatal(err)
	}
	if text := describe(nextOf(t, heard, guid)); text != "created Pending" {
		t.Fatalf("got %s", text)
	}
	ask("kill")
	requireAgain(t, heard)
	if task := get(t, guid); task.State != models.Task_Pending {
		t.Fatalf("after the crash the task is %+v", task)
	}
}

// TestOrderlyEnd: a board that stops ends its streams, after the last event, and the client does not come again.
func TestOrderlyEnd(t *testing.T) {
	heard, old := listen(t, subscribe(t, boardURL(t))), listen(t, subscribeOld(t))
	guid := unique("last")
	if err := newClient(t).DesireTask(logger, traceID, guid, unique("domain"), longDefinition()); err != nil {
		t.Fatal(err)
	}
	ask("stop")
	for _, source := range []<-chan told{heard, old} {
		if text := describe(nextOf(t, source, guid)); text != "created Pending" {
			t.Fatalf("got %s", text)
		}
		select {
		case next := <-source:
			if next.err != io.EOF {
				t.Fatalf("the source ended with %v, and %v", next.err, next.event)
			}
		case <-time.After(patience):
			t.Fatalf("no end within %s", patience)
		}
	}
}
