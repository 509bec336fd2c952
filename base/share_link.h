/* share_link: the messages between a VM's process and the process that serves a shared folder (cairn-share), on a
 * SOCK_SEQPACKET socket. A request is this header and a FUSE request (linux/fuse.h). Its answer is the same header and
 * the FUSE answer, or the header alone if FUSE has no answer to that request. Each request has one answer, and the
 * answers come in the order of the requests. */
#ifndef CAIRN_BASE_SHARE_LINK_H
#define CAIRN_BASE_SHARE_LINK_H

#include <stdint.h>

struct share_header {
	uint64_t id;
};

/* Most bytes of one READ or WRITE: such a message fits the default buffer of a socket. */
#define SHARE_DATA_MAX (128u << 10)
/* A FUSE message, without struct share_header: data, two names or fewer, and its own headers. */
#define SHARE_FUSE_MAX (SHARE_DATA_MAX + 8192)
#define SHARE_TAG_MAX 36 /* bytes of a tag; virtio has no room for more */

#endif
