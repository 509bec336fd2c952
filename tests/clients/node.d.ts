// What the TypeScript example of docs/api.md uses of Node.js. Users have these types from @types/node, which Debian 12
// has no package of.
declare module "node:net" {
	export interface Socket {
		write(text: string): boolean;
		end(): void;
	}
	export function connect(path: string): Socket;
}
declare module "node:readline" {
	import type { Socket } from "node:net";
	export function createInterface(options: { input: Socket }): AsyncIterable<string>;
}
declare const process: { env: Record<string, string | undefined> };
declare const console: { log(...values: unknown[]): void };
