/* fuzz_frames: libFuzzer target for the frames that a guest sends to cairn-slirp, and for those that cairn-slirp
 * combines for the guest. An input is a sequence of packets: two bytes of length, and the packet. */
#include "tests/fuzz/fuzz_api.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "tools/slirp/frames.h"
#include "tools/slirp/options.h"
#include "tools/slirp/segments.h"
#include "tools/slirp/udp.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MTU 1500

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Combine what the guest sent as if it came from the network. */
static void combine(struct segments *s, const uint8_t *frame, size_t len)
{
	size_t out;

	if (!segments_add(s, frame, len) && segments_end(s, &out))
		must(out <= PACKET_BYTES_MAX);
}

static void packets_take(struct frames *f, struct udp *u, struct segments *s)
{
	const uint8_t *frame;
	size_t len;

	while ((frame = frames_read(f, &len))) {
		combine(s, frame, len);
		if (!udp_answer(u, frame, len))
			frames_write(f, frame, MIN(len, (size_t)MTU + ETHERNET_BYTES));
	}
	frames_push(f);
	frames_flush(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct segments s;
	struct options o = { .control_fd = -1, .mtu = MTU, .nforwards = 1 };
	struct frames *f;
	struct udp *u;
	uint8_t back[512];
	int pair[2];

	log_set_level(LOG_LEVEL_ERROR);
	memset(&s, 0, offsetof(struct segments, packet));
	o.network.s_addr = htonl(0x0a000200);
	o.mask.s_addr = htonl(0xffffff00);
	o.gateway.s_addr = htonl(0x0a000202);
	o.forwards[0] = (struct forward){ .fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), .udp = true, .port = 53 };
	must(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
	must(!frames_new(pair[0], o.mtu, &f, NULL) && !udp_new(&o, f, &u, NULL));
	while (len > 2) {
		size_t n = MIN((size_t)load_le16(data), len - 2);

		(void)!send(pair[1], data + 2, n, MSG_NOSIGNAL);
		packets_take(f, u, &s);
		while (recv(pair[1], back, sizeof(back), 0) > 0)
			;
		data += n + 2;
		len -= n + 2;
	}
	udp_free(u);
	frames_free(f);
	close(pair[0]);
	close(pair[1]);
	close(o.forwards[0].fd);
	return 0;
}
