#include "tools/vnc/server.h"
#include "base/display.h"
#include "base/err.h"
#include "base/keepalive.h"
#include "base/key_codes.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "tools/vnc/keymap.h"
#include "tools/vnc/link.h"
#include "tools/vnc/picture.h"

#include <endian.h>
#include <errno.h>
#include <linux/input-event-codes.h>
#include <poll.h>
#include <rfb/rfb.h>
#include <rfb/rfbregion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

/* While the screen is off, clients see it black, in this size. */
#define OFF_WIDTH 640
#define OFF_HEIGHT 480
/* Between two looks at the screen: after a change, and after a second without one. */
#define UPDATE_BUSY_MS 33
#define UPDATE_IDLE_MS 100
#define BUSY_MS 1000
/* A client that stops amid a message holds up the others for so long. */
#define CLIENT_WAIT_MS 2000
/* After so many wrong passwords in a row, all clients are refused for a while. */
#define WRONG_MAX 5
#define WRONG_WAIT_MS 10000
#define KEYS (INPUT_KEY_MAX + 1)

struct server {
	rfbScreenInfoPtr rfb;
	const struct link *link;
	struct picture picture;
	char *passwords[2];
	uint64_t update_ms, changed_ms; /* times of the next update, and of the last change */
	unsigned wrong;		      /* passwords in a row */
	uint64_t refuse_until_ms;
	rfbClientPtr holders[KEYS]; /* the client that holds the key down; NULL: none */
	int buttons;		    /* as the last client said */
};

static uint64_t now_ms(void)
{
	return loop_now_ns() / 1000000;
}

static struct server *server_of(rfbScreenInfoPtr rfb)
{
	return rfb->screenData;
}

/* A function that takes the place of the C library's for libvncserver, too. */
#define FOR_LIBRARY __attribute__((visibility("default")))

/* libvncserver takes the bytes of its challenges from random(), which it seeds with the time. */
FOR_LIBRARY long random(void)
{
	long v = 0;

	if (getrandom(&v, sizeof(v), 0) != sizeof(v))
		abort();
	return v & 0x7fffffff;
}

/* A new client joins: select() waits for nothing. */
static bool client_joins;

/* libvncserver waits with select() for a new client's first bytes, for 100 ms, because a browser could speak WebSocket,
 * and serves nobody meanwhile. */
FOR_LIBRARY int select(int n, fd_set *restrict reads, fd_set *restrict writes, fd_set *restrict excepts, struct timeval *restrict wait)
{
	struct timespec left = { 0 };

	if (wait && !client_joins)
		left = (struct timespec){ wait->tv_sec, wait->tv_usec * 1000 };
	return pselect(n, reads, writes, excepts, wait ? &left : NULL, NULL);
}

/* ---- input ---- */

static void key_send(struct server *s, rfbClientPtr client, uint16_t code, bool down)
{
	s->holders[code] = down ? client : NULL;
	link_send(s->link, (struct input_event){ .kind = INPUT_KEY, .code = code, .down = down });
}

static bool shift_is_held(const struct server *s)
{
	return s->holders[KEY_LEFTSHIFT] || s->holders[KEY_RIGHTSHIFT];
}

/* Press or release the Shift keys, whoever holds them. */
static void shift_set(struct server *s, bool down)
{
	static const uint16_t codes[] = { KEY_LEFTSHIFT, KEY_RIGHTSHIFT };

	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		if (i ? s->holders[codes[i]] != NULL : s->holders[codes[i]] || !s->holders[codes[1]])
			link_send(s->link, (struct input_event){ .kind = INPUT_KEY, .code = codes[i], .down = down });
}

/* A client's keysym names a character, independently of its keyboard: hold Shift as the US layout needs it. */
static void key_event(rfbBool down, rfbKeySym keysym, rfbClientPtr client)
{
	struct server *s = server_of(client->screen);
	struct keymap_key key = keymap_find(keysym);
	bool held = shift_is_held(s), other = key.shift != KEYMAP_EITHER && held != (key.shift == KEYMAP_WITH);

	if (!key.code)
		return;
	if (down && other)
		shift_set(s, !held);
	key_send(s, client, key.code, down);
	if (down && other)
		shift_set(s, held);
}

/* The client knows the key's place on the keyboard, so the guest's layout decides which sign that is. */
static void place_event(struct server *s, rfbClientPtr client, const rfbQemuExtendedKeyEventMsg *m)
{
	uint16_t code = key_code_of_rfb(be32toh(m->keycode));

	if (code)
		key_send(s, client, code, m->down != 0);
	else
		key_event(m->down != 0, be32toh(m->keysym), client);
}

static void pointer_event(int mask, int x, int y, rfbClientPtr client)
{
	static const int bits[INPUT_BUTTONS] = { [INPUT_LEFT] = 1, [INPUT_MIDDLE] = 2, [INPUT_RIGHT] = 4 };
	struct server *s = server_of(client->screen);
	int pressed = mask & ~s->buttons;

	/* For a client that asked for a smaller picture, the library has multiplied them. */
	x = MIN(MAX(x, 0), INPUT_PLACE_MAX);
	y = MIN(MAX(y, 0), INPUT_PLACE_MAX);
	link_send(s->link, (struct input_event){ .kind = INPUT_POINT, .x = x, .y = y });
	for (unsigned i = 0; i < INPUT_BUTTONS; i++)
		if ((mask ^ s->buttons) & bits[i])
			link_send(s->link, (struct input_event){ .kind = INPUT_BUTTON, .code = (uint16_t)i, .down = (mask & bits[i]) != 0 });
	if (pressed & 0x18)
		link_send(s->link, (struct input_event){ .kind = INPUT_WHEEL, .x = pressed & 0x08 ? 1 : -1 });
	s->buttons = mask;
	rfbDefaultPtrAddEvent(mask, x, y, client);
}

/* ---- clients ---- */

static unsigned server_clients(struct server *s)
{
	struct pollfd fds[SERVER_CLIENTS_MAX];

	return server_poll_add(s, fds);
}

static void client_gone(rfbClientPtr client)
{
	struct server *s = server_of(client->screen);

	for (uint16_t code = 1; code < KEYS; code++)
		if (s->holders[code] == client)
			key_send(s, client, code, false);
	if (s->buttons && server_clients(s) <= 1)
		pointer_event(0, s->rfb->cursorX, s->rfb->cursorY, client);
}

/* Let the socket of a TCP client without the password yet be readable only when its next message is complete: the
 * library would wait for the rest of the message, and serve nobody meanwhile. A Unix socket ignores this; only the
 * VM's owner connects there. */
static void client_await(rfbClientPtr client)
{
	int bytes = client->state == RFB_PROTOCOL_VERSION ? sz_rfbProtocolVersionMsg : client->state == RFB_AUTHENTICATION ? CHALLENGESIZE : 1;

	setsockopt(client->sock, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
}

static enum rfbNewClientAction client_new(rfbClientPtr client)
{
	client->clientGoneHook = client_gone;
	return RFB_CLIENT_ACCEPT;
}

static rfbBool password_check(rfbClientPtr client, const char *response, int len)
{
	struct server *s = server_of(client->screen);

	if (now_ms() < s->refuse_until_ms)
		return FALSE;
	if (rfbCheckPasswordByList(client, response, len)) {
		s->wrong = 0;
		return TRUE;
	}
	if (++s->wrong == WRONG_MAX) {
		s->wrong = 0;
		s->refuse_until_ms = now_ms() + WRONG_WAIT_MS;
		log_warn("vnc", "%d wrong passwords; all clients are refused for %d s", WRONG_MAX, WRONG_WAIT_MS / 1000);
	}
	return FALSE;
}

unsigned server_poll_add(struct server *s, struct pollfd *fds)
{
	rfbClientIteratorPtr i = rfbGetClientIterator(s->rfb);
	rfbClientPtr client;
	unsigned n = 0;

	while ((client = rfbClientIteratorNext(i)) && n < SERVER_CLIENTS_MAX)
		if (client->sock >= 0)
			fds[n++] = (struct pollfd){ .fd = client->sock, .events = POLLIN };
	rfbReleaseClientIterator(i);
	return n;
}

/* Return the client that has been connected longest without having begun its session; NULL: none. */
static rfbClientPtr newcomer_find(struct server *s)
{
	rfbClientIteratorPtr i = rfbGetClientIterator(s->rfb);
	rfbClientPtr client, found = NULL;

	while ((client = rfbClientIteratorNext(i))) /* the newest one comes first */
		if (client->sock >= 0 && client->state != RFB_NORMAL)
			found = client;
	rfbReleaseClientIterator(i);
	return found;
}

/* Handle the clients' messages. While a client begins its session, take one message of each client at a time, because
 * client_await() has to come between two messages. */
static void clients_serve(struct server *s)
{
	rfbClientIteratorPtr i;
	rfbClientPtr client;

	s->rfb->handleEventsEagerly = !newcomer_find(s);
	rfbProcessEvents(s->rfb, 0);
	i = rfbGetClientIterator(s->rfb);
	while ((client = rfbClientIteratorNext(i)))
		if (client->sock >= 0 && !s->rfb->handleEventsEagerly)
			client_await(client);
	rfbReleaseClientIterator(i);
}

/* ---- QEMU's extended key events (RFB protocol, "QEMU Extended Key Event Message") ---- */

static int places_encodings[] = { (int)rfbEncodingQemuExtendedKeyEvent, 0 };

/* Tell the client that it may send them: by an update with a rectangle that has this encoding and no data. */
static rfbBool places_enable(rfbClientPtr client, void **data, int encoding)
{
	struct {
		rfbFramebufferUpdateMsg update;
		rfbFramebufferUpdateRectHeader rectangle;
	} answer = { { .type = rfbFramebufferUpdate, .nRects = htobe16(1) }, { .encoding = htobe32(rfbEncodingQemuExtendedKeyEvent) } };

	_Static_assert(sizeof(answer) == sz_rfbFramebufferUpdateMsg + sz_rfbFramebufferUpdateRectHeader, "no padding");
	(void)data;
	return encoding == places_encodings[0] && rfbWriteExact(client, (const char *)&answer, sizeof(answer)) > 0;
}

static rfbBool places_take(rfbClientPtr client, void *data, const rfbClientToServerMsg *message)
{
	rfbQemuExtendedKeyEventMsg m = { .type = message->type };

	(void)data;
	if (m.type != rfbQemuEvent)
		return FALSE;
	if (rfbReadExact(client, (char *)&m + 1, sz_rfbQemuExtendedKeyEventMsg - 1) <= 0 || m.subtype)
		rfbCloseClient(client);
	else
		place_event(server_of(client->screen), client, &m);
	return TRUE;
}

static rfbProtocolExtension places_extension = {
	.pseudoEncodings = places_encodings, .enablePseudoEncoding = places_enable, .handleMessage = places_take,
};

/* ---- the screen ---- */

static void format_set(rfbScreenInfoPtr rfb)
{
	rfb->serverFormat.redShift = 16;
	rfb->serverFormat.greenShift = 8;
	rfb->serverFormat.blueShift = 0;
}

/* Give the picture the mode's size, and tell the clients. */
static int picture_fit(struct server *s, uint32_t width, uint32_t height)
{
	rfbClientIteratorPtr i;
	rfbClientPtr client;
	int r = picture_resize(&s->picture, width, height);

	if (r < 0)
		return r;
	rfbNewFramebuffer(s->rfb, (char *)s->picture.pixels, (int)width, (int)height, 8, 3, 4);
	format_set(s->rfb);
	i = rfbGetClientIterator(s->rfb);
	while ((client = rfbClientIteratorNext(i)))
		s->rfb->setTranslateFunction(client);
	rfbReleaseClientIterator(i);
	return 0;
}

static void rectangle_changed(void *opaque, uint32_t x1, uint32_t y1, uint32_t x2, uint32_t y2)
{
	struct server *s = opaque;

	rfbMarkRectAsModified(s->rfb, (int)x1, (int)y1, (int)x2, (int)y2);
}

static void screen_update(struct server *s, uint64_t now)
{
	static const uint8_t black[OFF_WIDTH * 4];
	struct display_mode mode;
	const uint8_t *memory = s->link->memory;

	if (!link_mode(s->link, &mode)) {
		mode = (struct display_mode){ .width = OFF_WIDTH, .height = OFF_HEIGHT, .bits = 32 }; /* the same line again and again */
		memory = black;
	}
	if ((mode.width != s->picture.width || mode.height != s->picture.height) && picture_fit(s, mode.width, mode.height) < 0)
		return;
	if (picture_update(&s->picture, memory, &mode, rectangle_changed, s))
		s->changed_ms = now;
	s->update_ms = now + (now - s->changed_ms < BUSY_MS ? UPDATE_BUSY_MS : UPDATE_IDLE_MS);
}

void server_accept(struct server *s, int fd)
{
	bool is_full = server_clients(s) == SERVER_CLIENTS_MAX;
	rfbClientPtr evicted = is_full ? newcomer_find(s) : NULL, client;

	screen_update(s, now_ms()); /* the client learns the present size first */
	if ((is_full && !evicted) || now_ms() < s->refuse_until_ms) {
		close(fd);
		return;
	}
	if (evicted)
		rfbCloseClient(evicted);
	keepalive_set(fd);
	client_joins = true;
	client = rfbNewClient(s->rfb, fd);
	client_joins = false;
	if (client)
		client_await(client);
}

static bool somebody_waits(struct server *s)
{
	rfbClientIteratorPtr i = rfbGetClientIterator(s->rfb);
	rfbClientPtr client;
	bool waits = false;

	while ((client = rfbClientIteratorNext(i)))
		waits |= client->state == RFB_NORMAL && !sraRgnEmpty(client->requestedRegion);
	rfbReleaseClientIterator(i);
	return waits;
}

int server_run(struct server *s)
{
	uint64_t now = now_ms();

	clients_serve(s);
	if (!somebody_waits(s))
		return -1;
	if (now >= s->update_ms) {
		screen_update(s, now);
		clients_serve(s);
	}
	return (int)(s->update_ms > now ? s->update_ms - now : 1);
}

/* ---- creation ---- */

static void log_nothing(const char *format, ...)
{
	(void)format;
}

int server_new(const char *name, const char *password, const struct link *link, struct server **ret, struct err *e)
{
	struct server *s = calloc(1, sizeof(*s));
	rfbScreenInfoPtr rfb;

	rfbLog = rfbErr = log_nothing;
	if (!s || picture_resize(&s->picture, OFF_WIDTH, OFF_HEIGHT) < 0)
		return err_set_errno(e, -ENOMEM, "VNC server");
	rfb = s->rfb = rfbGetScreen(NULL, NULL, OFF_WIDTH, OFF_HEIGHT, 8, 3, 4);
	if (!rfb)
		return err_set_errno(e, -ENOMEM, "VNC server");
	s->link = link;
	rfb->screenData = s;
	rfb->frameBuffer = (char *)s->picture.pixels;
	format_set(rfb);
	rfb->desktopName = name;
	rfb->cursor = NULL; /* the guest draws its own */
	rfb->port = rfb->ipv6port = rfb->httpPort = rfb->http6Port = 0;
	rfb->alwaysShared = TRUE;
	rfb->deferUpdateTime = 0;
	rfb->maxClientWait = CLIENT_WAIT_MS;
	rfb->kbdAddEvent = key_event;
	rfb->ptrAddEvent = pointer_event;
	rfb->newClientHook = client_new;
	if (password) {
		unsigned char warm[16] = { 0 };

		s->passwords[0] = (char *)password;
		rfb->authPasswdData = s->passwords;
		rfb->passwordCheck = password_check;
		rfbEncryptBytes(warm, s->passwords[0]); /* its library reads files the first time */
	}
	rfbRegisterProtocolExtension(&places_extension);
	rfbInitServer(rfb);
	*ret = s;
	return 0;
}
