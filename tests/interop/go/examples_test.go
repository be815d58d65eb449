package interop

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/bbs/models"
)

// delivery is one request that a board made of the callback server.
type delivery struct {
	method, contentType string
	body                []byte
}

// callbackServer answers 200 to every callback and passes it on.
func callbackServer(t *testing.T) (url string, deliveries <-chan delivery) {
	t.Helper()
	received := make(chan delivery, 16)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			t.Errorf("read a callback: %v", err)
		}
		received <- delivery{request.Method, request.Header.Get("Content-Type"), body}
	}))
	t.Cleanup(server.Close)
	return server.URL, received
}

func awaitDelivery(t *testing.T, deliveries <-chan delivery) delivery {
	t.Helper()
	select {
	case received := <-deliveries:
		return received
	case <-time.After(patience):
		t.Fatalf("no callback arrived within %s", patience)
		return delivery{}
	}
}

// TestDocumentationExamples is the page "Task Examples" of the BBS with its own guid and domain: desire a task, poll it
// until it is resolving, receive its callback.
func TestDocumentationExamples(t *testing.T) {
	client := newClient(t)
	callbackURL, deliveries := callbackServer(t)
	desire(t, client, "some-guid", "some-domain", exampleDefinition(callbackURL))

	task := poll(t, client, "some-guid", models.Task_Resolving)
	if task.Failed || strings.TrimSpace(task.Result) != "hello world" {
		t.Fatalf("failed=%v (%s), result %q", task.Failed, task.FailureReason, task.Result)
	}

	received := awaitDelivery(t, deliveries)
	var response models.TaskCallbackResponse
	if err := json.Unmarshal(received.body, &response); err != nil {
		t.Fatalf("the callback %q: %v", received.body, err)
	}
	if response.TaskGuid != "some-guid" || response.Failed || strings.TrimSpace(response.Result) != "hello world" {
		t.Fatalf("the callback says %+v", response)
	}
}

// TestResultIsTheWholeFile polls until Resolving; echo ends its line, so the result does too.
func TestResultIsTheWholeFile(t *testing.T) {
	client := newClient(t)
	callbackURL, _ := callbackServer(t)
	guid, domain := unique("polled"), unique("domain")
	desire(t, client, guid, domain, exampleDefinition(callbackURL))

	task := poll(t, client, guid, models.Task_Resolving)
	if task.Result != "hello world\n" || task.Failed || task.FailureReason != "" || task.Domain != domain {
		t.Fatalf("the task ended as %+v", task)
	}
	if task.CreatedAt <= 0 || task.FirstCompletedAt < task.CreatedAt || task.UpdatedAt < task.FirstCompletedAt {
		t.Fatalf("times out of order: created %d, completed %d, updated %d",
			task.CreatedAt, task.FirstCompletedAt, task.UpdatedAt)
	}
}

// TestCallbackBody demands exactly the documented keys of a callback.
func TestCallbackBody(t *testing.T) {
	client := newClient(t)
	callbackURL, deliveries := callbackServer(t)
	guid := unique("called-back")
	definition := exampleDefinition(callbackURL)
	definition.Annotation = "place any label/note/thing here"
	desire(t, client, guid, unique("domain"), definition)

	received := awaitDelivery(t, deliveries)
	if received.method != http.MethodPost || received.contentType != "application/json" {
		t.Fatalf("the callback is a %s of %q", received.method, received.contentType)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(received.body, &keys); err != nil {
		t.Fatalf("the callback %q: %v", received.body, err)
	}
	want := []string{"task_guid", "failed", "failure_reason", "result", "annotation", "created_at"}
	for _, key := range want {
		if _, found := keys[key]; !found {
			t.Errorf("the callback lacks %q", key)
		}
	}
	if len(keys) != len(want) {
		t.Errorf("the callback has other keys: %s", received.body)
	}
	var response models.TaskCallbackResponse
	if err := json.Unmarshal(received.body, &response); err != nil {
		t.Fatal(err)
	}
	if response.TaskGuid != guid || response.Failed || response.FailureReason != "" ||
		response.Result != "hello world\n" || response.Annotation != definition.Annotation || response.CreatedAt <= 0 {
		t.Fatalf("the callback says %+v", response)
	}
}

// TestFailureIsCalledBack: a task whose action fails tells so, with its reason and without a result.
func TestFailureIsCalledBack(t *testing.T) {
	client := newClient(t)
	callbackURL, deliveries := callbackServer(t)
	guid := unique("failing")
	definition := exampleDefinition(callbackURL)
	definition.LogSource = "TEST"
	definition.Action = models.WrapAction(&models.RunAction{
		User: "root", Path: "sh", Args: []string{"-c", "echo late > result-file.txt; exit 3"},
	})
	desire(t, client, guid, unique("domain"), definition)

	var response models.TaskCallbackResponse
	if err := json.Unmarshal(awaitDelivery(t, deliveries).body, &response); err != nil {
		t.Fatal(err)
	}
	if !response.Failed || !strings.HasSuffix(response.FailureReason, "Exited with status 3") || response.Result != "" {
		t.Fatalf("the callback says %+v", response)
	}
}

// TestCancel: a cancelled task is over at once, for the caller of the cancel and for everybody else.
func TestCancel(t *testing.T) {
	client := newClient(t)
	guid := unique("cancelled")
	desire(t, client, guid, unique("domain"), longDefinition())
	if task := poll(t, client, guid, models.Task_Running); task.CellId == "" {
		t.Fatalf("a running task has no cell: %+v", task)
	}

	if err := client.CancelTask(logger, traceID, guid); err != nil {
		t.Fatalf("cancel: %v", err)
	}
	task, err := client.TaskByGuid(logger, traceID, guid)
	if err != nil {
		t.Fatal(err)
	}
	if task.State != models.Task_Completed || !task.Failed || task.FailureReason != "task was cancelled" ||
		task.Result != "" || task.CellId != "" {
		t.Fatalf("a cancelled task is %+v", task)
	}
	refusal := client.CancelTask(logger, traceID, guid)
	requireError(t, refusal, models.NewError(models.Error_InvalidStateTransition,
		"Cannot transition from Completed to Completed"))
}

// TestCancelIsCalledBack: whoever waits for the callback of a cancelled task is told.
func TestCancelIsCalledBack(t *testing.T) {
	client := newClient(t)
	callbackURL, deliveries := callbackServer(t)
	guid := unique("cancelled-with-callback")
	definition := longDefinition()
	definition.CompletionCallbackUrl = callbackURL
	desire(t, client, guid, unique("domain"), definition)

	if err := client.CancelTask(logger, traceID, guid); err != nil {
		t.Fatalf("cancel: %v", err)
	}
	var response models.TaskCallbackResponse
	if err := json.Unmarshal(awaitDelivery(t, deliveries).body, &response); err != nil {
		t.Fatal(err)
	}
	if response.TaskGuid != guid || !response.Failed || response.FailureReason != "task was cancelled" {
		t.Fatalf("the callback says %+v", response)
	}
}
