"""xenfs domain: make, end and list domains."""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import asdict
from typing import Annotated

import typer

from xenfs.abi.xenfs_op import DEFAULT_FRAMES, DestroyDomain
from xenfs.commands.columns import show
from xenfs.commands.failure import Unable, command
from xenfs.commands.machine import HEAD, Domain, create_domain, frames, hypercall, within
from xenfs.commands.place import Place, served

app = typer.Typer(no_args_is_help=True, help="Make, end and list the domains of the machine at $XEN.")


def _user(name: str, found: Place) -> pwd.struct_passwd:
    try:
        user = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise Unable(f"there is no user {name}") from None
    if os.geteuid() != 0 and user.pw_uid != os.geteuid():
        raise Unable(f"only root may give a domain to {name}")
    if found.mount and user.pw_uid not in (0, found.mount.user) and "allow_other" not in found.mount.options:
        raise Unable(f"{name} cannot enter {found.point}: it is mounted without allow_other")
    return user


def one_of(domains: tuple[Domain, ...], which: str) -> Domain:
    """The living domain of that number or name; a number counts first. Raises Unable."""
    living = [d for d in domains if not d.dying]
    for domain in [*(d for d in living if str(d.domid) == which), *(d for d in living if d.name == which)]:
        return domain
    raise Unable(f"there is no domain {which}")


@app.command("create")
@command("domain create")
def create(
    name: Annotated[str, typer.Option(help="Its name; domain-N by default.")] = "",
    size: Annotated[int, typer.Option("--frames", min=0, help="Its memory in frames of 4 KiB.")] = DEFAULT_FRAMES,
    most: Annotated[int | None, typer.Option("--max", min=1, help="What it may grow to; --frames by default.")] = None,
    user: Annotated[str | None, typer.Option(help="Who is that domain: a user's name or number.")] = None,
) -> None:
    """Make a domain and print its number.

    Exit status: 0 made; 1 not, and the reason is on stderr; 2 wrong usage.
    """
    found = served()
    owner = _user(user, found) if user is not None else None
    domid = create_domain(found.point, name, size, most)
    if owner is not None:
        home, uid, gid = f"{found.point}/domains/{domid}", owner.pw_uid, owner.pw_gid
        try:
            within(found.point, lambda: os.chown(home, uid, gid))
        except OSError as error:
            hypercall(found.point, DestroyDomain(dom=domid))
            raise Unable(f"cannot give the domain to {user}: {error.strerror}") from error
    typer.echo(domid)


@app.command("destroy")
@command("domain destroy")
def destroy(which: Annotated[str, typer.Argument(metavar="DOMID|NAME", help="Which.")]) -> None:
    """End a domain with all it has.

    Exit status: 0 ended; 1 not, and the reason is on stderr; 2 wrong usage.
    """
    point = served().point
    hypercall(point, DestroyDomain(dom=one_of(within(point, lambda: frames(point)).domains, which).domid))


@app.command("list")
@command("domain list")
def list_domains(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the domains with their counts of frames and ports.

    Exit status: 0 listed; 1 not, and the reason is on stderr.
    """
    point = served().point
    domains = within(point, lambda: frames(point)).domains
    if as_json:
        for domain in domains:
            typer.echo(json.dumps(asdict(domain)))
    else:
        show(HEAD, [domain.row() for domain in domains])
