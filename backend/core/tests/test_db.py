import pytest
from django.db import connection, transaction

from core.db import fetch_row, release_connection


@pytest.mark.skipif(
    connection.vendor == "sqlite", reason="Django never closes a database that is in memory"
)
@pytest.mark.django_db(transaction=True)
def test_a_released_connection_is_opened_again_by_the_next_query():
    connection.ensure_connection()

    release_connection()

    assert connection.connection is None
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


@pytest.mark.django_db(transaction=True)
def test_a_connection_is_not_released_within_a_transaction():
    with transaction.atomic():
        release_connection()

        assert connection.connection is not None


@pytest.mark.django_db
def test_the_first_row_of_a_query_is_fetched():
    assert fetch_row("SELECT %s, 2", [1]) == (1, 2)
    assert fetch_row("SELECT 1 WHERE 1 = 0", []) is None
