package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/bbs/models"
)

// watch subscribes to the board's task events and passes on those of one task, in short form, until the test ends.
func watch(t *testing.T, guid string) <-chan string {
	t.Helper()
	source, err := newClient(t).SubscribeToTaskEvents(logger)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	seen := make(chan string, 64)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			event, err := source.Next()
			if err != nil {
				return // the test closed the source, or waits for an event that will not come and says so
			}
			if text := describe(event); event.Key() == guid {
				seen <- text
			}
		}
	}()
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Errorf("close the event source: %v", err)
		}
		<-ended
	})
	return seen
}

func describe(event models.Event) string {
	switch event := event.(type) {
	case *models.TaskCreatedEvent:
		return fmt.Sprintf("created %s", event.Task.State)
	case *models.TaskChangedEvent:
		return fmt.Sprintf("changed %s to %s", event.Before.State, event.After.State)
	case *models.TaskRemovedEvent:
		return fmt.Sprintf("removed %s", event.Task.State)
	default:
		return "unknown " + event.EventType()
	}
}

// await demands these events, in this order, with no other between them.
func await(t *testing.T, seen <-chan string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		select {
		case got := <-seen:
			if got != want {
				t.Fatalf("the event is %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("no %q within %s", want, patience)
		}
	}
}

// TestEvents follows the whole life of a task that its client resolves.
func TestEvents(t *testing.T) {
	client := newClient(t)
	guid := unique("followed")
	seen := watch(t, guid)
	desire(t, client, guid, unique("domain"), exampleDefinition(""))
	await(t, seen, "created Pending", "changed Pending to Running", "changed Running to Completed")

	if err := client.ResolvingTask(logger, traceID, guid); err != nil {
		t.Fatal(err)
	}
	if err := client.DeleteTask(logger, traceID, guid); err != nil {
		t.Fatal(err)
	}
	await(t, seen, "changed Completed to Resolving", "removed Resolving")
}

// TestEventsOfCallback: with a callback the board resolves and removes the task itself.
func TestEventsOfCallback(t *testing.T) {
	client := newClient(t)
	callbackURL, deliveries := callbackServer(t)
	guid := unique("followed")
	seen := watch(t, guid)
	desire(t, client, guid, unique("domain"), exampleDefinition(callbackURL))
	await(t, seen, "created Pending", "changed Pending to Running", "changed Running to Completed",
		"changed Completed to Resolving", "removed Resolving")
	if body := string(awaitDelivery(t, deliveries).body); !strings.Contains(body, guid) {
		t.Fatalf("the callback is of another task: %s", body)
	}
}

// TestEventsOfCancel: a cancel is one step, from wherever the task is.
func TestEventsOfCancel(t *testing.T) {
	client := newClient(t)
	guid := unique("followed")
	seen := watch(t, guid)
	desire(t, client, guid, unique("domain"), longDefinition())
	await(t, seen, "created Pending", "changed Pending to Running")
	if err := client.CancelTask(logger, traceID, guid); err != nil {
		t.Fatal(err)
	}
	await(t, seen, "changed Running to Completed")
}
