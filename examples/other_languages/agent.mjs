// An agent in Node, standard library only: says hello to its sidecar and echoes prompts and tasks. Usage: node agent.mjs SOCKET
import net from "node:net";
import readline from "node:readline";

const socket = net.connect(process.argv[2]);
socket.on("error", (e) => { console.error(`no sidecar at ${process.argv[2]}: ${e.message}`); process.exit(1); });
const say = (command) => socket.write(JSON.stringify(command) + "\n");

say({ type: "hello", id: "hello", payload: { protocol: 1 } });
for await (const line of readline.createInterface({ input: socket })) {
  console.log(line);
  const { type, payload } = JSON.parse(line);
  const answer = type === "message" && reply(payload.message);
  if (answer) say({ type: "send", payload: { target_peer: payload.from_peer, message: answer } });
}

function reply(m) {
  const bodies = {
    agent_prompt: () => ["agent_response", { response: `echo: ${m.payload?.message}`, error: "" }],
    task_request: () => ["task_response", { result: `echo: ${JSON.stringify(m.payload)}`, error: "" }],
  };
  if (!Object.hasOwn(bodies, m.type)) return null;
  const [type, payload] = bodies[m.type]();
  const answer = { type, request_id: m.request_id, source_agent: m.target_agent, target_agent: m.source_agent, payload };
  // a newer agent matches replies by this
  if (m.mesh) answer.mesh = { v: 1, kind: "reply", id: `re-${m.mesh.id}`.slice(0, 64), corr: m.mesh.id, conversation: m.mesh.conversation };
  return answer;
}
