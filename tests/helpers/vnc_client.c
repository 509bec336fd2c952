/* A VNC client, by libvncclient: types keys, moves the pointer, and saves the screen.
 * vnc_client SERVER [key:KEYSYM | place:KEYSYM,CODE | point:X,Y,BUTTONS | wait:WIDTH,HEIGHT,X,Y,RRGGBB]... FILE
 * SERVER: the path of a socket, or HOST:PORT; with the password in VNC_PASSWORD. key: press and release. place: the
 * same with QEMU's extended key event. wait: until the screen has this size and colour. FILE: a PPM of the screen.
 * Prints each action that is done, in a line. */
#include <rfb/rfbclient.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *password_give(rfbClient *c)
{
	(void)c;
	return strdup(getenv("VNC_PASSWORD") ? getenv("VNC_PASSWORD") : "");
}

static void say_nothing(const char *format, ...)
{
	(void)format;
}

static void messages_take(rfbClient *c, unsigned usec)
{
	int n = c->buffered ? 1 : WaitForMessage(c, usec); /* which does not look into the buffer */

	if (n < 0 || (n > 0 && !HandleRFBServerMessage(c))) {
		fputs("the server has closed the connection\n", stderr);
		exit(3);
	}
}

static unsigned colour(const rfbClient *c, int x, int y)
{
	return *(const uint32_t *)(c->frameBuffer + 4 * (y * c->width + x)) & 0xffffff;
}

static void screen_wait(rfbClient *c, const char *text)
{
	int w, h, x, y;
	unsigned rgb;

	if (sscanf(text, "%d,%d,%d,%d,%x", &w, &h, &x, &y, &rgb) != 5)
		exit(2);
	while (c->width != w || c->height != h || colour(c, x, y) != rgb)
		messages_take(c, 100000);
}

static void act(rfbClient *c, const char *what)
{
	unsigned keysym, code;
	int x, y, buttons;

	if (!strncmp(what, "key:", 4)) {
		SendKeyEvent(c, (uint32_t)strtoul(what + 4, NULL, 0), TRUE);
		SendKeyEvent(c, (uint32_t)strtoul(what + 4, NULL, 0), FALSE);
	} else if (sscanf(what, "place:%x,%x", &keysym, &code) == 2) {
		for (int down = 1; down >= 0; down--)
			while (!SendExtendedKeyEvent(c, keysym, code, (rfbBool)down)) /* the server's consent has not come */
				messages_take(c, 100000);
	} else if (sscanf(what, "point:%d,%d,%d", &x, &y, &buttons) == 3) {
		SendPointerEvent(c, x, y, buttons);
	} else if (!strncmp(what, "wait:", 5)) {
		screen_wait(c, what + 5);
	} else {
		exit(2);
	}
	puts(what);
	fflush(stdout);
}

static void picture_write(const rfbClient *c, const char *path)
{
	FILE *f = fopen(path, "wb");

	if (!f)
		exit(1);
	fprintf(f, "P6\n%d %d\n255\n", c->width, c->height);
	for (int y = 0; y < c->height; y++)
		for (int x = 0; x < c->width; x++) {
			unsigned v = colour(c, x, y);

			fprintf(f, "%c%c%c", v >> 16, v >> 8 & 0xff, v & 0xff);
		}
	if (fclose(f))
		exit(1);
}

int main(int argc, char **argv)
{
	rfbClient *c = rfbGetClient(8, 3, 4);
	char *colon;

	if (argc < 3 || !c)
		return 2;
	rfbClientLog = rfbClientErr = say_nothing;
	c->GetPassword = password_give;
	c->format.redShift = 16;
	c->format.greenShift = 8;
	c->format.blueShift = 0;
	c->canHandleNewFBSize = TRUE;
	c->appData.encodingsString = getenv("VNC_ENCODINGS") ? getenv("VNC_ENCODINGS") : "zrle raw";
	c->serverHost = strdup(argv[1]);
	colon = argv[1][0] == '/' ? NULL : strrchr(c->serverHost, ':');
	if (colon) {
		*colon = 0;
		c->serverPort = atoi(colon + 1);
	}
	if (!rfbInitClient(c, NULL, NULL)) {
		fputs("the server has refused the client\n", stderr);
		return 4;
	}
	for (int i = 2; i < argc - 1; i++)
		act(c, argv[i]);
	/* The answer to this request comes when the server has all of the above. */
	SendFramebufferUpdateRequest(c, 0, 0, c->width, c->height, FALSE);
	messages_take(c, 10000000);
	picture_write(c, argv[argc - 1]);
	rfbClientCleanup(c);
	return 0;
}
