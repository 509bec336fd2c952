// Uses the types of cairn.d.ts. test_client.py compiles this file, which never runs: a line below @ts-expect-error has to
// be refused.
import type { Commands, Definition, Events, NetworkDefinition, SnapshotEntry } from "./cairn";

type Job<N extends keyof Commands> = Commands[N] extends { job: infer R } ? R : never;

interface Client {
	execute<N extends keyof Commands>(name: N, args: Commands[N]["arguments"]): Promise<Commands[N]["result"]>;
	wait<N extends keyof Commands>(name: N, job: string): Promise<Job<N>>;
	on<E extends keyof Events>(event: E, take: (data: Events[E]["data"]) => void): void;
}

const lan: NetworkDefinition = {
	name: "lan", mode: "nat", mtu: 1400, users: [1000],
	ipv4: { address: "10.0.0.1", prefix: 24, dhcp: { ranges: [{ start: "10.0.0.9", end: "10.0.0.20" }] } },
	egress: { default: "deny", rules: [{ allow: "any", protocol: "tcp", ports: 443 }] },
};
const web: Definition = {
	name: "web", memory: 512, vcpus: 2, boot: { kernel: "/vmlinux" },
	disks: [{ path: "/web.qcow2", format: "qcow2" }], interfaces: [{ type: "network", source: "lan" }],
};

export async function main(client: Client): Promise<string[]> {
	const states: string[] = [];
	client.on("VM_STATE_CHANGE", (data) => states.push(data.vm, data.state));
	await client.execute("net-define", { definition: lan });
	const made: boolean = (await client.execute("vm-define", { definition: web })).created;
	const id: number | undefined = (await client.execute("vm-start", { vm: "web" })).id;
	const { job } = await client.execute("snapshot-create", { vm: "web", name: "s1", tags: ["keep"] });
	const created: string | undefined = (await client.wait("snapshot-create", job)).name;
	const page = await client.execute("snapshot-list", { vm: "web" });
	const names = page.snapshots.map((s: SnapshotEntry) => s.name);
	const title: string | undefined = (await client.execute("vm-info", { vm: "web" })).title;
	const dhcp = (await client.execute("net-dump-definition", { network: "lan" })).definition.ipv4?.dhcp;
	const first: string | undefined = dhcp?.ranges?.[0]?.start;

	// @ts-expect-error: a name is no number
	await client.execute("vm-start", { vm: 1 });
	// @ts-expect-error: the VM is missing
	await client.execute("vm-start", {});
	// @ts-expect-error: there is no such argument
	await client.execute("vm-start", { vm: "web", fast: true });
	// @ts-expect-error: there is no such command
	await client.execute("vm-begin", { vm: "web" });
	// @ts-expect-error: a number is no text
	const text: string = (await client.execute("vm-info", { vm: "web" })).vcpus;
	// @ts-expect-error: the result has no such member
	page.snapshot;
	// @ts-expect-error: an optional member may be missing
	const certain: string = (await client.execute("vm-info", { vm: "web" })).title;
	// @ts-expect-error: the command starts no job
	(await client.wait("vm-start", job)).name;
	// @ts-expect-error: there is no such event
	client.on("VM_STATE", () => {});
	// @ts-expect-error: the event has no such member
	client.on("VM_STATE_CHANGE", (data) => data.word);
	// @ts-expect-error: there is no such mode
	await client.execute("net-define", { definition: { name: "lan", mode: "fast" } });
	// @ts-expect-error: an address has a prefix
	await client.execute("net-define", { definition: { name: "lan", ipv4: { address: "10.0.0.1" } } });
	// @ts-expect-error: a disk has no such key
	await client.execute("vm-define", { definition: { ...web, disks: [{ file: "/web.qcow2" }] } });
	return [...states, ...names, created ?? "", String(made), String(id), title ?? "", first ?? "", text, certain];
}
