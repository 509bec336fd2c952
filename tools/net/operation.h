/* operation: the verbs. */
#ifndef CAIRN_TOOLS_NET_OPERATION_H
#define CAIRN_TOOLS_NET_OPERATION_H

#include "tools/net/link.h"
#include "tools/net/nft.h"
#include "tools/net/request.h"

struct err;
struct json_object;

/* Parameters of all verbs; all borrowed. */
struct operation {
	struct request *req;
	struct links *links;
	struct nft *nft;
	struct json_object *answer; /* the object "return" */
	struct json_object *notes;  /* the array "notes" or "removed" of it */
};

/* Each fills the answer, and returns 0, or -errno with a sentence. */
int network_up(struct operation *o, struct err *e);
int network_down(struct operation *o, struct err *e);
int network_update(struct operation *o, struct err *e);
int network_check(struct operation *o, struct err *e);
int network_blocked(struct operation *o, struct err *e);
int network_leases(struct operation *o, struct err *e);
int network_free(struct operation *o, struct err *e);
int network_port_up(struct operation *o, struct err *e);
int network_port_down(struct operation *o, struct err *e);
int network_port_reserve(struct operation *o, struct err *e);

/* Add a sentence to the notes; a note_fn (accept.h) with the operation. */
void operation_note(void *o, const char *sentence);

#endif
