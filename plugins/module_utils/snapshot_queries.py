"""What the module host_snapshot asks of a release and of its databases."""

# What the release's models and migrations declare, and the database has not.
DECLARED = """
import json
from django.apps import apps
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
executor = MigrationExecutor(connection)
said = [f"migration {m.app_label}.{m.name} is not applied" for m, _b in executor.migration_plan(executor.loader.graph.leaf_nodes())]
with connection.cursor() as cursor:
    tables = set(connection.introspection.table_names(cursor))
    for model in apps.get_models(include_auto_created=True):
        o = model._meta
        if not o.managed or o.proxy or o.swapped:
            continue
        if o.db_table not in tables:
            said.append(f"table {o.db_table} is missing")
            continue
        has = connection.introspection.get_constraints(cursor, o.db_table)
        names = set(has)
        first = {c["columns"][0] for c in has.values() if c["columns"] and (c["index"] or c["unique"] or c["primary_key"])}
        said += [f"index {i.name} of {o.db_table} is missing" for i in o.indexes if i.name not in names]
        said += [f"constraint {c.name} of {o.db_table} is missing" for c in o.constraints if c.name not in names]
        said += [f"the index of {o.db_table}.{f.column} is missing" for f in o.local_fields
                 if (f.unique or f.db_index) and f.column and f.column not in first]
print("snapshot:" + json.dumps(said))
"""

SETTINGS = """
select coalesce(json_object_agg(name, setting || coalesce(' ' || unit, '')), '{}') from pg_settings
where source not in ('default', 'client', 'override', 'session') or name in ('data_checksums', 'server_encoding', 'lc_collate')
"""
CLUSTER = """
select json_build_object(
  'roles', (select json_object_agg(rolname, concat_ws(' ', case when rolsuper then 'superuser' end, case when rolcanlogin then 'login' end,
      case when rolcreatedb then 'createdb' end, case when rolcreaterole then 'createrole' end, case when rolreplication then 'replication' end,
      case when rolbypassrls then 'bypassrls' end, 'in ' || (select string_agg(roleid::regrole::text, ',' order by roleid::regrole::text)
      from pg_auth_members where member = r.oid), rolconfig::text)) from pg_roles r where rolname !~ '^pg_'),
  'databases', (select json_object_agg(datname, concat_ws(' ', pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider::text, datdba::regrole::text,
      datacl::text)) from pg_database where not datistemplate))
"""
SCHEMA = """
select coalesce(json_object_agg(name, value), '{}') from (
  select 'extension ' || extname as name, extversion as value from pg_extension
  union all select 'schema ' || nspname, concat_ws(' ', nspowner::regrole::text, nspacl::text) from pg_namespace where nspname !~ '^pg_|^information_schema$'
  union all select case c.relkind when 'r' then 'table ' when 'p' then 'table ' when 'v' then 'view ' when 'm' then 'view ' else 'sequence ' end
    || c.oid::regclass::text, concat_ws(' ', relowner::regrole::text, relacl::text, reloptions::text,
    case when relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,
    (select string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), case when attnotnull then 'not null' end, attidentity::text,
      (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = attrelid and adnum = attnum)), ', ' order by attname)
      from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped and c.relkind <> 'S'))
    from pg_class c join pg_namespace n on n.oid = relnamespace
    where relkind in ('r', 'p', 'v', 'm', 'S') and nspname !~ '^pg_|^information_schema$'
      and not exists (select from pg_depend where objid = c.oid and deptype = 'e')
  union all select 'index ' || indexrelid::regclass::text, pg_get_indexdef(indexrelid) || case when indisvalid then '' else ' INVALID' end
    from pg_index join pg_class c on c.oid = indexrelid join pg_namespace n on n.oid = c.relnamespace where nspname !~ '^pg_|^information_schema$'
  union all select 'constraint ' || conrelid::regclass::text || ' ' || conname, pg_get_constraintdef(oid) from pg_constraint
    where conrelid <> 0 and connamespace::regnamespace::text !~ '^pg_|^information_schema$'
  union all select 'function ' || p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid)) from pg_proc p join pg_namespace n on n.oid = pronamespace
    where nspname !~ '^pg_|^information_schema$' and prokind <> 'a' and not exists (select from pg_depend where objid = p.oid and deptype = 'e')
  union all select 'trigger ' || tgrelid::regclass::text || ' ' || tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
) as everything
"""
