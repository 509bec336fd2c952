#include "tools/web/pages.h"

#include <string.h>

/* The assembler includes each file; the Makefile knows this dependency. */
#define PAGE_DATA(symbol, file)                                                                    \
	__asm__(".pushsection .rodata\n" #symbol ": .incbin \"tools/web/page/" file                \
		"\"\n.byte 0\n.popsection\n");                                                      \
	extern const char symbol[];

PAGE_DATA(page_index, "index.html")
PAGE_DATA(page_style, "style.css")
PAGE_DATA(page_main, "main.js")
PAGE_DATA(page_daemon, "daemon.js")
PAGE_DATA(page_element, "element.js")
PAGE_DATA(page_lines, "lines.js")
PAGE_DATA(page_list, "list.js")
PAGE_DATA(page_vm, "vm.js")
PAGE_DATA(page_disks, "disks.js")
PAGE_DATA(page_new, "new.js")
PAGE_DATA(page_manage, "manage.js")
PAGE_DATA(page_devices, "devices.js")
PAGE_DATA(page_interfaces, "interfaces.js")
PAGE_DATA(page_form, "form.js")
PAGE_DATA(page_events, "events.js")
PAGE_DATA(page_snapshots, "snapshots.js")
PAGE_DATA(page_definition, "definition.js")
PAGE_DATA(page_console, "console.js")
PAGE_DATA(page_terminal, "terminal.js")
PAGE_DATA(page_screen, "screen.js")
PAGE_DATA(page_stream_input, "stream_input.js")
PAGE_DATA(page_repeat, "repeat.js")
PAGE_DATA(page_trends, "trends.js")
PAGE_DATA(page_host, "host.js")
PAGE_DATA(page_volumes, "volumes.js")
PAGE_DATA(page_schedules, "schedules.js")
PAGE_DATA(page_login, "login.js")

#define JS "text/javascript; charset=utf-8"

static const struct page pages[] = {
	{ "/", "text/html; charset=utf-8", page_index },
	{ "/style.css", "text/css; charset=utf-8", page_style },
	{ "/main.js", JS, page_main },
	{ "/daemon.js", JS, page_daemon },
	{ "/element.js", JS, page_element },
	{ "/lines.js", JS, page_lines },
	{ "/list.js", JS, page_list },
	{ "/vm.js", JS, page_vm },
	{ "/disks.js", JS, page_disks },
	{ "/new.js", JS, page_new },
	{ "/manage.js", JS, page_manage },
	{ "/devices.js", JS, page_devices },
	{ "/interfaces.js", JS, page_interfaces },
	{ "/form.js", JS, page_form },
	{ "/events.js", JS, page_events },
	{ "/snapshots.js", JS, page_snapshots },
	{ "/definition.js", JS, page_definition },
	{ "/console.js", JS, page_console },
	{ "/terminal.js", JS, page_terminal },
	{ "/screen.js", JS, page_screen },
	{ "/stream_input.js", JS, page_stream_input },
	{ "/repeat.js", JS, page_repeat },
	{ "/trends.js", JS, page_trends },
	{ "/host.js", JS, page_host },
	{ "/volumes.js", JS, page_volumes },
	{ "/schedules.js", JS, page_schedules },
	{ "/login.js", JS, page_login },
};

const struct page *page_find(const char *path)
{
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		if (!strcmp(path, pages[i].path))
			return &pages[i];
	return NULL;
}
