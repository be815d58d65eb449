package interop

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
)

// requireForbidden demands the error of a role that is missing: one the client decodes, whatever the HTTP status.
func requireForbidden(t *testing.T, got error, texts ...string) {
	t.Helper()
	refusal := models.ConvertError(got)
	if refusal == nil || refusal.Type != models.Error_InvalidRequest {
		t.Fatalf("got the error %#v, want an InvalidRequest", got)
	}
	for _, text := range texts {
		if !strings.Contains(refusal.Message, text) {
			t.Fatalf("got the text %q, want %q in it", refusal.Message, text)
		}
	}
}

// TestRoles: a certificate's roles say what its bearer may do, and a cell speaks for itself alone.
func TestRoles(t *testing.T) {
	needTLS(t)
	client, cell, operator := newClientAs(t, "client"), newClientAs(t, "cell"), newClientAs(t, "operator")
	guid := bring(t, models.Task_Running)

	_, err := client.StartTask(logger, traceID, bring(t, models.Task_Pending), ownCell)
	requireForbidden(t, err, "StartTask needs the role cell", "--role cell")
	for _, caller := range []bbs.InternalClient{client, operator} {
		requireForbidden(t, caller.CompleteTask(logger, traceID, guid, ownCell, false, "", ""), "CompleteTask needs the role cell")
	}
	requireForbidden(t, client.RejectTask(logger, traceID, guid, "no room"), "RejectTask needs the role cell or operator")
	requireForbidden(t, cell.DesireTask(logger, traceID, unique("desired"), "domain", longDefinition()), "needs the role client or operator")
	requireForbidden(t, cell.CancelTask(logger, traceID, guid), "needs the role client or operator")

	_, err = cell.StartTask(logger, traceID, bring(t, models.Task_Pending), "another-cell")
	requireForbidden(t, err, "certificate is of cell "+ownCell, "another-cell")
	requireForbidden(t, cell.CompleteTask(logger, traceID, guid, "another-cell", false, "", ""), "certificate is of cell "+ownCell)
	requireForbidden(t, operator.RejectTask(logger, traceID, guid, "no room"), "running on cell "+ownCell)
	if task := get(t, guid); task.State != models.Task_Running || task.CellId != ownCell || task.RejectionCount != 0 {
		t.Fatalf("what was refused had an effect: %+v", task)
	}

	if _, err := cell.SubscribeToTaskEvents(logger); err == nil || !strings.Contains(err.Error(), "403") {
		t.Fatalf("a cell's subscription is answered with %v", err)
	}
	for name, caller := range map[string]bbs.InternalClient{"client": client, "cell": cell, "operator": operator} {
		if !caller.Ping(logger, traceID) {
			t.Errorf("no answer to the ping of %s", name)
		}
		if _, err := caller.Tasks(logger, traceID); err != nil {
			t.Errorf("%s may not list: %v", name, err)
		}
	}
}

// TestConstructors: every way the client has of making itself leads to the board, and no way leads around its checks.
func TestConstructors(t *testing.T) {
	needTLS(t)
	url, directory := boardURL(t), certificates()
	ca := filepath.Join(directory, "ca.pem")
	cert, key := certificateOf("client")
	strangeCert, strangeKey := certificateOf("stranger")

	for name, made := range map[string]struct {
		client func() (bbs.InternalClient, error)
		works  bool
	}{
		"NewClient":                  {func() (bbs.InternalClient, error) { return bbs.NewClient(url, ca, cert, key, 0, 0) }, true},
		"NewClient, cached sessions": {func() (bbs.InternalClient, error) { return bbs.NewClient(url, ca, cert, key, 10, 10) }, true},
		"NewSecureSkipVerifyClient":  {func() (bbs.InternalClient, error) { return bbs.NewSecureSkipVerifyClient(url, cert, key, 0, 0) }, true},
		"by name": {func() (bbs.InternalClient, error) {
			return bbs.NewClient(strings.Replace(url, "127.0.0.1", "localhost", 1), ca, cert, key, 0, 0)
		}, true},
		"another authority": {func() (bbs.InternalClient, error) {
			return bbs.NewClient(url, filepath.Join(directory, "stranger-ca.pem"), cert, key, 0, 0)
		}, false},
		"a stranger's certificate": {func() (bbs.InternalClient, error) { return bbs.NewClient(url, ca, strangeCert, strangeKey, 0, 0) }, false},
		"a stranger's certificate, unverified": {func() (bbs.InternalClient, error) {
			return bbs.NewSecureSkipVerifyClient(url, strangeCert, strangeKey, 0, 0)
		}, false},
		"plain HTTP on the port of TLS": {func() (bbs.InternalClient, error) {
			return bbs.NewClientWithConfig(bbs.ClientConfig{URL: strings.Replace(url, "https:", "http:", 1), Retries: 1, RequestTimeout: 10 * time.Second})
		}, false},
	} {
		client, err := made.client()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// Several calls, so that kept connections and resumed sessions are used as well.
		for range 3 {
			if pong := client.Ping(logger, traceID); pong != made.works {
				t.Errorf("%s: the ping says %v", name, pong)
			}
			if !made.works {
				break
			}
		}
	}
	if _, err := bbs.NewClient(strings.Replace(url, "https:", "http:", 1), ca, cert, key, 0, 0); err == nil {
		t.Error("a client of TLS takes a plain URL")
	}
}

// TestManyConnections: handshakes by the dozen do not keep each other out.
func TestManyConnections(t *testing.T) {
	boardURL(t)
	answered := make(chan bool)
	const clients = 50
	for range clients {
		client := newClient(t)
		go func() { answered <- client.Ping(logger, traceID) }()
	}
	for range clients {
		if !<-answered {
			t.Error("a ping went without an answer")
		}
	}
}
