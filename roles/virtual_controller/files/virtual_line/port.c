/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { DIALOUT = 20 }; /* the group's number in every Debian */

bool make_directory_of(int base, const char *path, char *error, size_t size)
{
    char part[4096];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        if (mkdirat(base, part, 0755) < 0 && errno != EEXIST) {
            snprintf(error, size, "directory %.3900s: %s", part, strerror(errno));
            return false;
        }
    }
    return true;
}

static bool leads_to(int dev, const char *name, const char *target)
{
    char found[4096];
    ssize_t length = readlinkat(dev, name, found, sizeof found - 1);
    return length > 0 && (found[length] = 0, strcmp(found, target) == 0);
}

/* A link to a pseudo terminal was left by a simulator; anything else may be a real port's name. */
static bool may_replace(int dev, const char *name, const char *target)
{
    struct stat existing;
    if (fstatat(dev, name, &existing, AT_SYMLINK_NOFOLLOW) < 0)
        return true;
    char found[64] = "";
    return leads_to(dev, name, target) ||
           (readlinkat(dev, name, found, sizeof found - 1) > 0 && strncmp(found, "/dev/pts/", 9) == 0);
}

static bool make_link(int dev, const char *name, const char *target, char *error, size_t size)
{
    if (!may_replace(dev, name, target)) {
        snprintf(error, size, "%s exists and is not a simulator's link: choose another path for the port", name);
        return false;
    }
    if (!make_directory_of(dev, name, error, size))
        return false;
    char fresh[4096];
    snprintf(fresh, sizeof fresh, "%s.new", name);
    unlinkat(dev, fresh, 0);
    if (symlinkat(target, dev, fresh) < 0 || renameat(dev, fresh, dev, name) < 0) {
        snprintf(error, size, "%s: cannot make the link: %s", name, strerror(errno));
        return false;
    }
    return true;
}

/* As udev does: where an alias leads is written as seen from its own directory. */
static const char *alias_target(const struct port *port, const char *alias)
{
    static char target[4096];
    *target = 0;
    size_t length = 0;
    for (const char *slash = strchr(alias, '/'); *port->link != '/' && slash; slash = strchr(slash + 1, '/'))
        length += (size_t)snprintf(target + length, sizeof target - length, "../");
    snprintf(target + length, sizeof target - length, "%s", port->link);
    return target;
}

static bool make_links(const struct port *port, char *error, size_t size)
{
    bool good = make_link(port->dev, port->link, port->device, error, size);
    for (int i = 0; good && i < port->alias_count; i++)
        good = make_link(port->dev, port->aliases[i], alias_target(port, port->aliases[i]), error, size);
    return good;
}

static bool open_terminal(struct port *port, bool of_another_host)
{
    int unlocked = 0, number, slave;
    port->master = openat(port->dev, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (port->master < 0 || ioctl(port->master, TIOCSPTLCK, &unlocked) < 0 || ioctl(port->master, TIOCGPTN, &number) < 0 ||
        (slave = ioctl(port->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
        return false;
    snprintf(port->device, sizeof port->device, "/dev/pts/%d", number);
    struct termios raw;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    bool good = !of_another_host || (fchown(slave, 0, DIALOUT) == 0 && fchmod(slave, 0660) == 0);
    close(slave);
    return good;
}

bool port_plug(struct port *port, const char *dev, char *error, size_t size)
{
    if (port->master >= 0)
        return true;
    port->dev = open(dev ? dev : "/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!open_terminal(port, dev)) {
        snprintf(error, size, "%s: no pseudo terminal in %s: %s", port->link, dev ? dev : "/dev", strerror(errno));
        port_unplug(port);
        return false;
    }
    port->in_use = false;
    if (make_links(port, error, size))
        return true;
    port_unplug(port);
    return false;
}

void port_unplug(struct port *port)
{
    if (port->master >= 0) {
        /* Not if somebody else has put his own link there meanwhile. */
        for (int i = 0; i < port->alias_count; i++)
            if (leads_to(port->dev, port->aliases[i], alias_target(port, port->aliases[i])))
                unlinkat(port->dev, port->aliases[i], 0);
        if (leads_to(port->dev, port->link, port->device))
            unlinkat(port->dev, port->link, 0);
        close(port->master);
        port->master = -1;
    }
    if (port->dev >= 0) {
        close(port->dev);
        port->dev = -1;
    }
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
