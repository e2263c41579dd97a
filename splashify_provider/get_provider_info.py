"""What Airflow discovers about this provider: plain data, and nothing imported to give it."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Describe the provider to Airflow.

    :return: A document in the form of Airflow's ``provider.yaml.schema.json``. ``conn-fields`` and
        ``ui-field-behaviour`` make the connection form on Airflow 3.2 and later.
    """
    return {
        "package-name": "airflow-provider-splashify",
        "name": "Splashify Pro",
        "description": "Assign Splashify Pro (WhatsApp team inbox) conversations to agents.",
        "integrations": [
            {
                "integration-name": "Splashify Pro",
                "external-doc-url": "https://docs.splashifypro.com/",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Splashify Pro",
                "python-modules": ["splashify_provider.hooks.splashify"],
            }
        ],
        "operators": [
            {
                "integration-name": "Splashify Pro",
                "python-modules": [
                    "splashify_provider.operators.splashify",
                    "splashify_provider.operators.bulk",
                    "splashify_provider.operators.plan",
                ],
            }
        ],
        "connection-types": [
            {
                "connection-type": "splashify",
                "hook-class-name": "splashify_provider.hooks.splashify.SplashifyHook",
                "hook-name": "Splashify Pro",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "port"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {
                        "host": "https://apis.splashifypro.com/api/v1",
                        "password": "sk_live_… (Splashify: Settings → Developer)",
                        "extra": '{"default_region": "IN", "timeout": 30, "max_attempts": 3}',
                    },
                },
                "conn-fields": {
                    "default_region": {
                        "label": "Default region",
                        "description": "Two letters (ISO 3166-1), such as IN: whose national phone numbers "
                        "are understood. Without it every number needs its country code.",
                        "schema": {"type": ["string", "null"], "minLength": 2, "maxLength": 2},
                    },
                    "timeout": {
                        "label": "Timeout (s)",
                        "description": "Deadline of one request, from connecting to the last byte of the answer; 30 "
                        "unless set.",
                        "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 600},
                    },
                    "max_attempts": {
                        "label": "Attempts",
                        "description": "How often one request is tried before the task's own retries take over; "
                        "3 unless set.",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 10},
                    },
                    "requests_per_minute": {
                        "label": "Requests per minute",
                        "description": "What this Airflow may use of the key's limit of 100 a minute; 90 unless set.",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100000},
                    },
                    "burst": {
                        "label": "Burst",
                        "description": "How many of them may go out at once; the rest follows evenly. All unless set.",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100000},
                    },
                    "rate_limit_storage": {
                        "label": "Rate limit storage",
                        "description": "Where they are counted: memory:// (each task for itself; the default), or "
                        "redis://host:6379/0 for all tasks together.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "auth_scheme": {
                        "label": "Auth scheme",
                        "description": "The word before the key in the Authorization header; Basic unless set.",
                        "schema": {"type": ["string", "null"], "enum": ["Basic", "Bearer"]},
                    },
                    "proxies": {
                        "label": "Proxies",
                        "description": 'As requests takes them: {"https": "http://proxy.example.com:3128"}. '
                        "The environment's unless set.",
                        "schema": {"type": ["object", "null"]},
                    },
                    "verify": {
                        "label": "TLS verification",
                        "description": "true, false, or the path of a CA bundle; true unless set.",
                        "schema": {"type": ["string", "null"]},
                    },
                },
            }
        ],
    }
