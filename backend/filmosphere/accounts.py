"""allauth's accounts as scaffolding: installed with its tables, but without pages.

A middleware of allauth around every request would be pointless, and its configuration refuses to
start without one.
"""

from allauth.account.apps import AccountConfig


class AccountsConfig(AccountConfig):  # type: ignore[misc]  # allauth has no types
    """`allauth.account` without the check that its middleware is installed."""

    def ready(self) -> None:
        """Register the system checks, as the base class does."""
        from allauth.account import checks  # noqa: F401, PLC0415  (it needs loaded applications)
