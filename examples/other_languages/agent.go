// An agent in Go, standard library only: says hello to its sidecar and echoes prompts and tasks. Usage: go run agent.go SOCKET
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
)

type object = map[string]any

func main() {
	conn, err := net.Dial("unix", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "no sidecar at", os.Args[1], err)
		os.Exit(1)
	}
	out := json.NewEncoder(conn) // Encode writes one object and a line end
	_ = out.Encode(object{"type": "hello", "id": "hello", "payload": object{"protocol": 1}})
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 270336) // max_line_bytes of protocol/limits.json
	for lines.Scan() {
		var event struct {
			Type    string
			Payload struct {
				FromPeer string `json:"from_peer"`
				Message  object
			}
		}
		fmt.Println(lines.Text())
		if json.Unmarshal(lines.Bytes(), &event) == nil && event.Type == "message" {
			if answer := reply(event.Payload.Message); answer != nil {
				_ = out.Encode(object{"type": "send", "payload": object{"target_peer": event.Payload.FromPeer, "message": answer}})
			}
		}
	}
}

func reply(m object) object {
	asked, _ := m["payload"].(object)
	kind, body := "agent_response", object{"response": fmt.Sprint("echo: ", asked["message"]), "error": ""}
	switch m["type"] {
	case "agent_prompt":
	case "task_request":
		kind, body = "task_response", object{"result": fmt.Sprint("echo: ", asked), "error": ""}
	default:
		return nil
	}
	answer := object{"type": kind, "request_id": m["request_id"], "source_agent": m["target_agent"], "target_agent": m["source_agent"], "payload": body}
	if mesh, ok := m["mesh"].(object); ok { // a newer agent matches replies by this
		answer["mesh"] = object{"v": 1, "kind": "reply", "id": fmt.Sprint("re-", mesh["id"]), "corr": mesh["id"], "conversation": mesh["conversation"]}
	}
	return answer
}
