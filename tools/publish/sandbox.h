/* sandbox: restrict the process that relays data of clients and guests: it may accept and connect, but not listen,
 * and it opens no file. */
#ifndef CAIRN_TOOLS_PUBLISH_SANDBOX_H
#define CAIRN_TOOLS_PUBLISH_SANDBOX_H

struct err;

/* Call after all sockets but those of clients are open. Root becomes the user nobody, unless its user namespace lacks
 * that user. Returns 0; -errno with a sentence. */
int publish_sandbox(struct err *e);

#endif
