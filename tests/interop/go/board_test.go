package interop

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"code.cloudfoundry.org/bbs"
	"code.cloudfoundry.org/bbs/models"
	"code.cloudfoundry.org/lager/v3"
)

const (
	// pollInterval is the pace of the documentation's polling example.
	pollInterval = time.Second
	// patience bounds every wait: a task that takes longer here is a failure.
	patience = time.Minute
	traceID  = ""
)

var logger = lager.NewLogger("interop")

// newClient makes a client of the board under test; one attempt a call, so that a broken answer is not hidden by a retry.
func newClient(t *testing.T) bbs.InternalClient {
	t.Helper()
	return newClientAs(t, "client")
}

// newClientAs makes a client with the certificate of a role; over plain HTTP every caller has every role.
func newClientAs(t *testing.T, role string) bbs.InternalClient {
	t.Helper()
	return newClientWith(t, boardURL(t), role, 1)
}

func newClientWith(t *testing.T, url, role string, retries int) bbs.InternalClient {
	t.Helper()
	config := bbs.ClientConfig{URL: url, Retries: retries, RequestTimeout: 10 * time.Second}
	if directory := certificates(); directory != "" {
		config.IsTLS = true
		config.CAFile = filepath.Join(directory, "ca.pem")
		config.CertFile, config.KeyFile = certificateOf(role)
	}
	client, err := bbs.NewClientWithConfig(config)
	if err != nil {
		t.Fatalf("make a client of %s: %v", url, err)
	}
	return client
}

func boardURL(t *testing.T) string {
	t.Helper()
	url := os.Getenv("BULLETIN_BOARD_URL")
	if url == "" {
		t.Skip("BULLETIN_BOARD_URL is not set: there is no board to test")
	}
	return url
}

// certificates is the directory of the certificates; empty when the board speaks plain HTTP.
func certificates() string {
	return os.Getenv("BULLETIN_CERTIFICATES")
}

func certificateOf(role string) (cert, key string) {
	return filepath.Join(certificates(), role+".pem"), filepath.Join(certificates(), role+".key")
}

// needTLS skips a test of what only certificates bring.
func needTLS(t *testing.T) {
	t.Helper()
	boardURL(t)
	if certificates() == "" {
		t.Skip("BULLETIN_CERTIFICATES is not set: the board speaks plain HTTP")
	}
}

// unique makes a name that no other run uses.
func unique(prefix string) string {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		panic(err)
	}
	return prefix + "-" + hex.EncodeToString(random[:])
}

// exampleDefinition is the task of the documentation: it leaves a greeting in its result file.
func exampleDefinition(callbackURL string) *models.TaskDefinition {
	return &models.TaskDefinition{
		RootFs:    "docker:///busybox",
		DiskMb:    1024,
		MemoryMb:  1024,
		MaxPids:   1024,
		CpuWeight: 42,
		Action: models.WrapAction(&models.RunAction{
			User:           "root",
			Path:           "sh",
			Args:           []string{"-c", "echo hello world > result-file.txt"},
			ResourceLimits: &models.ResourceLimits{},
		}),
		CompletionCallbackUrl: callbackURL,
		ResultFile:            "result-file.txt",
	}
}

// longDefinition runs until it is ended from outside.
func longDefinition() *models.TaskDefinition {
	definition := exampleDefinition("")
	definition.DiskMb, definition.MemoryMb = 64, 64
	definition.ResultFile = ""
	definition.Action = models.WrapAction(&models.RunAction{User: "root", Path: "sh", Args: []string{"-c", "sleep 1000"}})
	return definition
}

// desire desires a task and takes it away, in whatever state it then is, when the test ends.
func desire(t *testing.T, client bbs.InternalClient, guid, domain string, definition *models.TaskDefinition) {
	t.Helper()
	if err := client.DesireTask(logger, traceID, guid, domain, definition); err != nil {
		t.Fatalf("desire %s: %v", guid, err)
	}
	t.Cleanup(func() { remove(t, client, guid) })
}

// remove takes a task away; one that is gone or being delivered already is left to the board.
func remove(t *testing.T, client bbs.InternalClient, guid string) {
	t.Helper()
	steps := []func(lager.Logger, string, string) error{client.CancelTask, client.ResolvingTask, client.DeleteTask}
	for _, step := range steps {
		err := step(logger, traceID, guid)
		var refusal *models.Error
		if err == nil || errors.As(err, &refusal) && (refusal.Type == models.Error_InvalidStateTransition ||
			refusal.Type == models.Error_ResourceNotFound) {
			continue
		}
		t.Errorf("remove %s: %v", guid, err)
	}
}

// poll reads the task once a second, as the documentation does, until it is in one of the states.
func poll(t *testing.T, client bbs.InternalClient, guid string, states ...models.Task_State) *models.Task {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		task, err := client.TaskByGuid(logger, traceID, guid)
		if err != nil {
			t.Fatalf("read %s: %v", guid, err)
		}
		for _, state := range states {
			if task.State == state {
				return task
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still %s after %s: %+v", guid, task.State, patience, task)
		}
		time.Sleep(pollInterval)
	}
}

// requireError demands the very error of the published client: its type, its text, and nothing besides.
func requireError(t *testing.T, got error, want *models.Error) {
	t.Helper()
	if !want.Equal(got) || !reflect.DeepEqual(got, error(want)) {
		t.Fatalf("got the error %#v, want %#v", got, want)
	}
}
