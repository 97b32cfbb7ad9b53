/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* A link to a pseudo terminal was left by a simulator; anything else may be a real port's name. */
static bool may_replace(const char *link)
{
    struct stat existing;
    if (lstat(link, &existing) < 0)
        return true;
    char target[64] = "";
    return readlink(link, target, sizeof target - 1) > 0 && strncmp(target, "/dev/pts/", 9) == 0;
}

bool port_plug(struct port *port, char *error, size_t size)
{
    if (port->master >= 0)
        return true;
    if (!may_replace(port->link)) {
        snprintf(error, size, "%s exists and is not a simulator's link: choose another path for the port", port->link);
        return false;
    }
    int slave;
    if (openpty(&port->master, &slave, port->device, NULL, NULL) < 0) {
        snprintf(error, size, "%s: no pseudo terminal: %s", port->link, strerror(errno));
        port->master = -1;
        return false;
    }
    struct termios raw;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    close(slave);
    fcntl(port->master, F_SETFL, O_NONBLOCK);
    fcntl(port->master, F_SETFD, FD_CLOEXEC);

    char fresh[4096];
    snprintf(fresh, sizeof fresh, "%s.new", port->link);
    unlink(fresh);
    if (symlink(port->device, fresh) < 0 || rename(fresh, port->link) < 0) {
        snprintf(error, size, "%s: cannot make the link: %s", port->link, strerror(errno));
        close(port->master);
        port->master = -1;
        return false;
    }
    port->in_use = false;
    return true;
}

void port_unplug(struct port *port)
{
    if (port->master < 0)
        return;
    char target[64];
    ssize_t length = readlink(port->link, target, sizeof target - 1);
    /* Not if somebody else has put his own link there meanwhile. */
    if (length > 0 && (target[length] = 0, strcmp(target, port->device) == 0))
        unlink(port->link);
    close(port->master);
    port->master = -1;
    port->in_use = false;
}

size_t port_read(struct port *port, uint8_t *bytes, size_t size)
{
    if (port->master < 0)
        return 0;
    ssize_t got = read(port->master, bytes, size);
    if (got > 0)
        return (size_t)got;
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        port->in_use = false;
        /* What the leaving side did not fetch must not greet the next one. */
        tcflush(port->master, TCOFLUSH);
    }
    return 0;
}

size_t port_write(struct port *port, const uint8_t *bytes, size_t count)
{
    if (port->master < 0 || !port->in_use)
        return count;
    ssize_t sent = write(port->master, bytes, count);
    if (sent >= 0)
        return (size_t)sent;
    return errno == EAGAIN || errno == EINTR ? 0 : count;
}

bool port_is_closed(const struct port *port)
{
    return port->link && port->master >= 0 && !port->in_use;
}

void port_notice_opening(struct port *port, short revents)
{
    /* Hung up with bytes waiting: somebody opened, wrote and closed again between two looks. */
    if ((revents & POLLHUP) && !(revents & POLLIN))
        return;
    port->in_use = true;
    port->opened++;
}
