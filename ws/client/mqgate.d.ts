/** Client of mqgate's JSON protocol (mqgate.json.v1); see PROTOCOL.md. */

export type State = 'connecting' | 'online' | 'offline' | 'closed';

export interface ClientOptions {
  /** Default: /ws on the host of the page. */
  url?: string;
  user?: string;
  password?: string;
  /** Instead of user and password; a function is asked anew for each connection. */
  token?: string | (() => string | Promise<string>);
  /** Held by one connection at a time; names durable subscriptions. Give each tab its own. */
  clientId?: string;
  /** What others see in presence lists, at most 64 bytes. The server does not check who uses which name. */
  name?: string;
  /** Back-off between connections, in milliseconds; defaults 500 and 30000. */
  minDelayMs?: number;
  maxDelayMs?: number;
  /** How many unconfirmed requests may wait; default 1000. More are rejected with code "full". */
  maxPending?: number;
  /** After how long a silence the server is pinged, and how long its answer may take; defaults 20000 and 15000. */
  pingMs?: number;
  timeoutMs?: number;
  onstate?: (state: State, info?: { code?: number; delayMs?: number; reason?: string; session?: string; user?: string }) => void;
  onerror?: (error: Error) => void;
  /** A replacement for the global WebSocket, such as that of the package ws in old versions of Node. */
  WebSocket?: unknown;
}

/** A string is sent as text, bytes as they are, anything else as JSON. */
export type Payload = string | Uint8Array | object | number | boolean | null;

export interface PublishOptions {
  contentType?: string;
  headers?: Record<string, string>;
  replyTo?: string;
  correlationId?: string;
  /** The server drops a second message with the same id where it stores; default: a new one for each call. */
  dedupId?: string;
  ttlMs?: number;
  /** 0 to 9, default 4. */
  priority?: number;
  persistent?: boolean;
  /** The topic keeps it as its last value, for those who subscribe with `retained`. */
  retain?: boolean;
}

export interface Message {
  id: string;
  to: string;
  timeMs: number;
  /** One of the three: text, JSON, or bytes in base64. */
  body?: string;
  data?: unknown;
  base64?: string;
  contentType?: string;
  headers?: Record<string, string>;
  replyTo?: string;
  correlationId?: string;
  expiresMs?: number;
  priority?: number;
  /** Absent if it is. */
  persistent?: false;
  /** It is what the topic kept. */
  retained?: true;
  /** Position in the topic's history. */
  seq?: number;
  /** How often it was delivered, of queues and durable subscriptions. */
  count?: number;
  redelivered?: boolean;
  /** With ack "client": it is done. */
  ack?: () => Promise<unknown>;
  /** With ack "client": it comes again after a delay (default: the queue's), or goes to the dead-letter queue. */
  nack?: (options?: { delayMs?: number; reject?: boolean; cause?: string }) => Promise<unknown>;
}

export interface Person { session: string; user?: string; name?: string; protocol: string; sinceMs: number }

export interface SubscribeOptions {
  /** Begin with the newest messages, or those since a time; later connections resume behind the last one seen. */
  history?: { last?: number; sinceMs?: number; seq?: number; epoch?: number };
  ack?: 'auto' | 'client';
  /** How many unsettled messages may be held; default 1 with ack "client". */
  credit?: number;
  /** Name of a durable subscription; needs clientId. */
  durable?: string;
  noLocal?: boolean;
  /** Begin with the last values of the topics that match. */
  retained?: boolean;
  /** Called with everyone who is there, whenever that changes. */
  onpresence?: (people: Person[]) => void;
  /** Messages were lost: the history did not reach back far enough. */
  onmissed?: () => void;
  /** The server has confirmed the subscription; again after each reconnect. */
  onready?: (reply: { first?: number; last?: number; epoch?: number; complete?: boolean }) => void;
}

export class MqgateError extends Error {
  code: string;
  /** The same request may succeed later. */
  retry: boolean;
  retryAfterMs: number;
}

export class Client {
  constructor(options?: ClientOptions);
  readonly state: State;
  publish(to: string, payload: Payload, options?: PublishOptions): Promise<unknown>;
  hint(to: string, payload: Payload): void;
  request(to: string, payload: Payload, options?: PublishOptions & { timeoutMs?: number }): Promise<Message>;
  presence(to: string): Promise<Person[]>;
  subscribe(to: string, onmessage: (message: Message) => void, options?: SubscribeOptions): { to: string; close(): void };
  close(): void;
}
